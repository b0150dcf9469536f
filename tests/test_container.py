"""The Dockerfile and what refers to it, the changelog and the citation, read and compared. Nothing is built."""

import pathlib
import re
import tomllib

import yaml

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
DOCKERFILE = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text("utf-8"))
STEPS = [line.split(maxsplit=1) for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
SCALING = (ROOT / "docs" / "scaling.md").read_text("utf-8")


def steps(kind: str) -> list[str]:
    """What stands behind an instruction of the Dockerfile, each time."""
    return [rest for name, rest in STEPS if name == kind]


def test_the_image_is_built_from_files_that_exist():
    assert {name for name, _ in STEPS} <= {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "CMD"} and STEPS[0][0] == "FROM"
    [base] = steps("FROM")
    assert re.fullmatch(r"python:\d\.\d+-slim", base)  # an official image, whose name has no host
    assert base.removeprefix("python:").removesuffix("-slim") in PROJECT["project"]["requires-python"]
    copied = {source.rstrip("/") for words in steps("COPY") for source in words.split()[:-1]}
    assert all((ROOT / source).exists() for source in copied)
    assert set(PROJECT["tool"]["setuptools"]["package-dir"].values()) | {"train.py", "eval.py"} <= copied
    sent = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if not line.startswith("#")]
    assert sent[0] == "*" and {line.removeprefix("!") for line in sent if line.startswith("!")} == copied


def test_the_manifests_name_images_that_the_document_builds():
    built = dict(re.findall(r"^docker build --build-arg EXTRAS=(\w+) --tag (\S+) \.$", SCALING, re.M))
    assert set(built) <= set(PROJECT["project"]["optional-dependencies"])
    blocks = re.findall(r"^```yaml\n(.*?)^```$", SCALING, re.M | re.S)
    used = [image for block in blocks for document in yaml.safe_load_all(block) for image in images(document)]
    assert sorted(used) == sorted(built.values())
    assert [words for words in steps("ARG") if words.startswith("EXTRAS=")] and "$EXTRAS" in " ".join(steps("RUN"))


def images(manifest) -> list[str]:
    """All that a manifest names."""
    if isinstance(manifest, list):
        return [image for part in manifest for image in images(part)]
    if not isinstance(manifest, dict):
        return []
    own = [manifest["image"]] if "image" in manifest else []
    return own + [image for part in manifest.values() for image in images(part)]


def test_citation_and_changelog_are_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation.keys() >= {"cff-version", "message", "title", "authors", "version", "license"}
    assert (citation["version"], citation["license"]) == (PROJECT["project"]["version"], PROJECT["project"]["license"])
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert changelog.index("## [Unreleased]") and set(re.findall(r"^### (.*)$", changelog, re.M)) <= kinds
    assert f"{PROJECT['project']['version']} is the version that is being worked on" in " ".join(changelog.split())
