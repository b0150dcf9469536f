"""The benchmark of world models: `python eval.py --world-model RUN ...`.

Each measure is a module with `measure(study) -> Finding` and `draw(finding, path)`; `benchmark.py` runs them all.
What is measured, with sources, is on one page: docs/quality.md.
"""
