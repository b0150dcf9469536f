"""The documents: their links lead somewhere, and each experiment has a verdict and a row on the index page."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "results").glob("*.md"))]
EXPERIMENTS = sorted((ROOT / "docs" / "experiments").glob("*.md"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(path):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert not [target for target in local if not (path.parent / target).exists()]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_answers_the_question_that_the_index_shows(path):
    question, verdict = path.read_text(encoding="utf-8").split("\n\n")[:2]
    assert question.startswith("# ") and question.endswith("?") and verdict.startswith("**Verdict:** ")
    rows = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8").splitlines()
    assert sum(f"(experiments/{path.name}) |" in row for row in rows) == 1


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_five_lines_are_the_quickstart(page):
    """Which another test runs."""
    block = re.search(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.S)
    quickstart = (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8")
    assert quickstart.partition('"""\n\n')[2] == block.group(1)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_are_there(path):
    """Those named with their folder, in backticks; pages of results are of the commits that they name."""
    text = "" if path.parent.name == "results" else path.read_text(encoding="utf-8")
    named = re.findall(
        r"`((?:benchmarks|data|docs|evaluation|examples|policy|simulator|tests|tether|training|worldmodel)/[\w/.]+)",
        text,
    )
    assert not [name for name in named if not (ROOT / name).exists()]
