"""Writes pages of measured numbers, and reads tables from them.

A section of the results is a page of its own, `results/NAME.md`. A page that also holds prose keeps its measured part
between two markers.
"""

import argparse
import pathlib
import re
import sys
from collections.abc import Iterator

from tether.data.files import write_text

AGE = "age"  # the marked part of a section in which `benchmarks/front.py` notes that the code is newer
Table = list[list[str]]  # the header, then the rows


def add_folder(parser: argparse.ArgumentParser) -> None:
    """The option that names the folder of the results."""
    parser.add_argument("--results", type=pathlib.Path, default="results", help="its folder (default: %(default)s)")


def write_page(folder: pathlib.Path, name: str, body: str) -> None:
    """Writes a section of the results, whose text begins with its title, and prints the path."""
    title, text = body.split("\n\n", 1)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{name}.md", f"{title}\n\n{marked(AGE, '')}\n\n{text}\n")
    print(f"wrote {folder / name}.md", file=sys.stderr)


def write_section(path: pathlib.Path, name: str, body: str) -> None:
    """Replaces the measured part `name` of a page and prints the path."""
    write_text(path, replace_section(path.read_text(encoding="utf-8"), name, body))
    print(f"wrote section {name!r} of {path}", file=sys.stderr)


def replace_section(text: str, name: str, body: str) -> str:
    """The text with the part between the markers of `name` replaced. Raises: ValueError where they are missing."""
    before, begin, rest = text.partition(f"<!-- {name}: begin -->")
    _, end, after = rest.partition(f"<!-- {name}: end -->")
    if not begin or not end:
        raise ValueError(f"expected the markers of the section {name!r}")
    return before + marked(name, body) + after


def marked(name: str, body: str) -> str:
    """A body between its markers."""
    return f"<!-- {name}: begin -->\n{body}\n<!-- {name}: end -->"


def tables_under(page: str, heading: str) -> Iterator[Table]:
    """The tables below a heading of a page, until the next heading; an empty heading stands for the whole page."""
    lines = page.splitlines()
    if heading:
        titles = [line.lstrip("# ") if line.startswith("#") else None for line in lines]
        if heading not in titles:
            return
        first = titles.index(heading) + 1
        lines = lines[first : next((n for n in range(first, len(lines)) if titles[n] is not None), len(lines))]
    for block in re.findall(r"(?:^\|.*\n?)+", "\n".join(lines), flags=re.M):
        header, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines())
        yield [header, *rows]
