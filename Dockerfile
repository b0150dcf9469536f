# The image that docs/scaling.md names, for a CPU by default:
#   docker build --build-arg EXTRAS=cuda --tag YOUR_REGISTRY/tether:cuda .
FROM python:3.11-slim

# Extras of pyproject.toml, separated by commas: cuda or tpu, gcs for buckets, ...
ARG EXTRAS=""

WORKDIR /tether
COPY pyproject.toml README.md LICENSE train.py eval.py ./
COPY tether/ tether/
COPY data/ data/
COPY simulator/ simulator/
COPY worldmodel/ worldmodel/
COPY policy/ policy/
COPY training/ training/
COPY evaluation/ evaluation/
RUN pip install --no-cache-dir --editable ".${EXTRAS:+[$EXTRAS]}"

CMD ["python", "train.py", "--help"]
