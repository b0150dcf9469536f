"""The pages of results: the front page and the README's table agree with the sections and give their age."""

import subprocess

import pytest

from benchmarks import front, pages
from benchmarks.front import CLAIMS, ROOT, SECTIONS, Claim

PAGE = """# Title

<!-- age: begin -->

<!-- age: end -->

| policy | score | failed |
| --- | --- | --- |
| mine | 0.9 |  |

## Cost

| policy | seeds | score | steps |
| --- | --- | --- | --- |
| mine | 1 | +0.5 [+0.4, +0.6] | 1,000 |
| mine | 2 | 0.7 | 20 |

after
"""


@pytest.mark.parametrize(
    ("heading", "row", "column", "cell"),
    [
        ("", ("mine",), "score", "0.9"),
        ("Cost", ("mine",), "score", "+0.5 [+0.4, +0.6]"),
        ("Cost", ("mine", "2"), "score", "0.7"),
        ("Cost", (), "steps", "1,020"),
        ("", (), "steps", "1,020"),
        ("", ("mine",), "failed", ""),
    ],
)
def test_a_number_is_read_by_heading_row_and_column(heading, row, column, cell):
    assert front.cell_of(PAGE, Claim("words", "x", heading, row, column)) == cell


@pytest.mark.parametrize("where", [("Costs", ("mine",), "score"), ("Cost", ("other",), "score"), ("", ("mine",), "no")])
def test_a_number_that_is_not_there_is_named(where):
    with pytest.raises(ValueError, match=r"results/x\.md: expected"):
        front.cell_of(PAGE, Claim("words", "x", *where))


def test_the_front_page_and_the_readme_are_those_of_the_sections():
    """But for the ages, which are of the commit that they were written at."""
    read = front.read(ROOT / "results")
    assert read.keys() == SECTIONS.keys() and {claim.section for claim in CLAIMS} <= read.keys()
    written = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    assert pages.replace_section(written, pages.AGE, "") == front.front(read, {})
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert pages.replace_section(readme, "results", front.claims_table(read, True)) == readme


def test_a_page_is_older_than_code_that_changed_after_its_commit(tmp_path):
    def git(*args):
        name = ["-c", "user.name=x", "-c", "user.email=x@x"]
        return subprocess.run(["git", *name, *args], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    def commit(path):
        (tmp_path / path).mkdir(exist_ok=True)
        (tmp_path / path / "x.py").write_text(path)
        git("add", ".")
        git("commit", "-qm", path)
        return git("rev-parse", "--short=12", "HEAD").strip()

    git("init", "-q")
    page = f"| commit | {commit('policy')}+ |"
    commit("docs")
    assert front.age_of(page, ("policy",), tmp_path) == ""
    assert "`docs/` changed after" in front.age_of(page, ("docs",), tmp_path)
    assert front.age_of("| commit | 0123456789ab |", ("docs",), tmp_path) == ""  # a commit that git does not know
    assert front.age_of(page, ("docs",), tmp_path / "nowhere") == ""


def test_a_page_is_written_whole_and_a_section_of_a_page_alone(tmp_path):
    pages.write_page(tmp_path / "new", "x", "# Title\n\nbody")
    path = tmp_path / "new" / "x.md"
    assert path.read_text() == "# Title\n\n<!-- age: begin -->\n\n<!-- age: end -->\n\nbody\n"
    pages.write_section(path, pages.AGE, "old")
    assert path.read_text() == "# Title\n\n<!-- age: begin -->\nold\n<!-- age: end -->\n\nbody\n"
    with pytest.raises(ValueError, match="markers of the section 'other'"):
        pages.write_section(path, "other", "new")
