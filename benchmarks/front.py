"""Writes the front page of the results and the README's table, from the pages of the sections:

python -m benchmarks.front [--results results] [--front RESULTS.md] [--readme README.md]

Every number is read from the table of the section that measured it. Each section, and the front page, gets a note where
the measured code has changed since, by git's history.
"""

import argparse
import dataclasses
import pathlib
import re
import subprocess

from benchmarks import command
from benchmarks.pages import AGE, add_folder, marked, replace_section, tables_under
from tether.data.command_line import Parser
from tether.data.files import write_text
from tether.evaluation.report import table

ROOT = pathlib.Path(__file__).parents[1]
MODELS = ("data", "simulator", "worldmodel", "evaluation")
LEARNED = ("data", "simulator", "worldmodel", "policy", "training")
SEVERAL_DEVICES = ("worldmodel", "policy", "training")


@dataclasses.dataclass(frozen=True)
class Section:
    """A page of `results/`.

    Attributes:
      about: the question that it answers.
      packages: those whose code it measures.
    """

    about: str
    packages: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A number of the front page, and its place in a section.

    Attributes:
      words: description of the number.
      section, heading, row, column: its page, the heading above its table (empty: any), the first cells of its row
        (none: the sum of all rows), and its column's title.
      readme: whether the README shows it.
    """

    words: str
    section: str
    heading: str
    row: tuple[str, ...]
    column: str
    readme: bool = False


SECTIONS = {  # in the order of interest
    "headline": Section("Imagination, practice in the simulator and imitation, evaluated in three Worlds", LEARNED),
    "headline-real": Section("The same on real logs", LEARNED),
    "steps": Section("How few simulator steps are enough", LEARNED),
    "guards": Section("What each guard of the rounds contributes", LEARNED),
    "reasoning-real": Section("Does the policy act on its reasoning? Real logs", LEARNED),
    "models": Section("World models on the starter set: realism, displacement, calibration, ranking", MODELS),
    "models-real": Section("The same on real logs", MODELS),
    "model-properties": Section("World models: conformance and speed", ("simulator", "worldmodel")),
    "simulator": Section("The simulator: speed, exactness, reactive traffic, SUMO", ("data", "simulator")),
    "kills": Section("Runs that are killed and go on", ("training",)),
    "fuzz": Section("Damaged input", ("data", "training")),
    "meshes-equality": Section("Eight devices compute what one computes", SEVERAL_DEVICES),
    "meshes-processes": Section("Two processes compute what one computes", SEVERAL_DEVICES),
    "meshes-weak": Section("Weak scaling of the training steps", SEVERAL_DEVICES),
    "meshes-weak-grounding": Section("Weak scaling of grounding", SEVERAL_DEVICES),
}
LOG_REPLAY, REACTIVE, SUMO = (f"Evaluated in {world}" for world in ("log replay", "reactive", "referee"))
GROUNDED, DIRECT, NEAR_LOG = (
    "grounded imagination",
    "direct practice in the simulator",
    "closed-loop SFT in the simulator",
)
FEWEST, EPOCHS = "grounded imagination by 8 scenes without refit", "direct practice with 8 epochs"
SCORE, GAIN, FEWER, STEPS = "driving score", "score - imitation's", "failures cut by", "until a score of 0.8"
CLAIMS = (
    Claim("Driving score of imitation", "headline", LOG_REPLAY, ("imitation",), SCORE, readme=True),
    Claim("… after post-training in imagination", "headline", LOG_REPLAY, (GROUNDED,), SCORE, readme=True),
    Claim("Gain", "headline", LOG_REPLAY, (GROUNDED,), GAIN, readme=True),
    Claim("Failures avoided by post-training", "headline", LOG_REPLAY, (GROUNDED,), FEWER, readme=True),
    Claim("… evaluated in traffic that reacts", "headline", REACTIVE, (GROUNDED,), FEWER, readme=True),
    Claim("… evaluated in SUMO", "headline", SUMO, (GROUNDED,), FEWER, readme=True),
    Claim("Real logs: gain", "headline-real", LOG_REPLAY, (GROUNDED,), GAIN, readme=True),
    Claim("Real logs: failures avoided", "headline-real", LOG_REPLAY, (GROUNDED,), FEWER, readme=True),
    Claim("Control: gain of fine-tuning towards the log", "headline", LOG_REPLAY, (NEAR_LOG,), GAIN, readme=True),
    Claim("Control: gain of practice in the simulator", "headline", LOG_REPLAY, (DIRECT,), GAIN, readme=True),
    Claim("Driving score of IDM, the teacher's kind", "headline", LOG_REPLAY, ("idm",), SCORE, readme=True),
    Claim("Simulator steps to a score of 0.8, by seed", "steps", "Cost", (FEWEST,), STEPS, readme=True),
    Claim("… by practice in the simulator", "steps", "Cost", (EPOCHS,), STEPS, readme=True),
    Claim("Change of the score without roll-back", "guards", LOG_REPLAY, ("no roll-back",), GAIN),
    Claim("Realism of the world model `tokens`", "models", "Realism", ("tokens",), "realism", readme=True),
    Claim("… of constant turn rate and speed", "models", "Realism", ("kinematic",), "realism", readme=True),
    Claim("… of the log itself", "models", "Realism", ("oracle",), "realism", readme=True),
    Claim("Simulator steps per CPU-second, one scene", "simulator", "", ("1", "1"), "ego outcomes", readme=True),
    Claim("Events on real scenes compared with an oracle", "simulator", "", (), "steps"),
    Claim("Events that differ from a float64 oracle's", "simulator", "", (), "differ", readme=True),
    Claim("Killed runs that differ from a run left alone", "kills", "", (), "runs lost"),
    Claim("Damaged inputs that met no clear error", "fuzz", "", (), "uncaught"),
)
ABOUT = """\
# Results

Each page of `results/` is written by the command that it names, from the commit that it names.
`python -m benchmarks.front` writes this page and reads every number from those pages. Where a claim names no data, it
is of the starter set as it was with 80 road networks: 192 held-out scenes, three seeds. Intervals are 95 % bootstrap
intervals over recordings. Pages that do not say so are older: they resample scenarios, which is
[too narrow](docs/experiments/intervals.md) where a recording holds several. What was tried, null results included:
[docs/experiments.md](docs/experiments.md)."""


def cell_of(page: str, claim: Claim) -> str:
    """The cell that a claim names. Raises: ValueError where its page has no such cell."""
    for header, *rows in tables_under(page, claim.heading):
        if claim.column in header:
            at = header.index(claim.column)
            named = [row[at] for row in rows if row[: len(claim.row)] == list(claim.row)]
            if named and not claim.row:
                return f"{sum(int(cell.replace(',', '')) for cell in named):,}"
            if named:
                return named[0]
    raise ValueError(f"results/{claim.section}.md: expected {claim.column!r} of {claim.row} below {claim.heading!r}")


def row_of(pages: dict[str, str], claim: Claim) -> list[str]:
    """The claim's row: words, number, interval and page."""
    number, _, interval = cell_of(pages.get(claim.section, ""), claim).partition(" [")
    return [claim.words, number, interval.rstrip("]"), f"[{claim.section}](results/{claim.section}.md)"]


def claims_table(pages: dict[str, str], readme: bool) -> str:
    """The claims of the front page, or those that the README shows."""
    rows = [row_of(pages, claim) for claim in CLAIMS if claim.readme or not readme]
    return table(["claim", "number", "95 % interval", "page"], rows)


def front(pages: dict[str, str], ages: dict[str, str]) -> str:
    """The front page. Args: pages: texts by section.   ages: `age_of` each section."""
    older = [name for name, age in ages.items() if age]
    which = "all pages" if len(older) == len(pages) else ", ".join(older)
    age = marked(AGE, f"Older than the code that they measure: {which}." if older else "")
    contents = "\n".join(f"- [{name}](results/{name}.md): {SECTIONS[name].about}" for name in SECTIONS if name in pages)
    return "\n\n".join([ABOUT, claims_table(pages, False), age, "## Contents", contents]) + "\n"


def age_of(page: str, packages: tuple[str, ...], root: pathlib.Path = ROOT) -> str:
    """A sentence for a page whose code has changed since; empty where it has not, or without git's history."""
    newest = ""
    for commit in re.findall(r"\b[0-9a-f]{12}\b", page):
        words = ["git", "log", "-1", "--format=%cs", f"{commit}..HEAD", "--", *packages]
        try:
            done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return ""
        newest = max(newest, done.stdout.strip())
    where = ", ".join(f"`{name}/`" for name in packages)
    return f"*Older than the code: {where} changed after these measurements, last on {newest}.*" if newest else ""


def read(folder: pathlib.Path) -> dict[str, str]:
    """The pages by section. Raises: ValueError for one that `SECTIONS` does not describe."""
    pages = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))}
    unknown = pages.keys() - SECTIONS.keys()
    if unknown:
        raise ValueError(f"{folder}: expected an entry in benchmarks.front.SECTIONS for {', '.join(sorted(unknown))}")
    return pages


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.front", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_folder(parser)
    parser.add_argument("--front", type=pathlib.Path, default="RESULTS.md", help="default: %(default)s")
    parser.add_argument("--readme", type=pathlib.Path, default="README.md", help="default: %(default)s")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Reads the pages; writes the front page, the README's table, and the age of each page."""
    options = parse(arguments)
    pages = read(options.results)
    ages = {name: age_of(pages[name], section.packages) for name, section in SECTIONS.items() if name in pages}
    write_text(options.front, front(pages, ages))
    readme = options.readme.read_text(encoding="utf-8")
    write_text(options.readme, replace_section(readme, "results", claims_table(pages, True)))
    for name, age in ages.items():
        write_text(options.results / f"{name}.md", replace_section(pages[name], AGE, age))


if __name__ == "__main__":
    command.run(main)
