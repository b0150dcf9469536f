"""Evaluates on held-out scenes: `python eval.py RUN_DIR`, `--help` for all. The program is `tether/eval.py`."""

from tether.console import evaluate

if __name__ == "__main__":
    evaluate()
