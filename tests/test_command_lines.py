"""Every command line of the documents is accepted by its program. Nothing is run.

`results/` is left out: its commands are of the commits that its pages name.
"""

import argparse
import ast
import importlib
import itertools
import pathlib
import re
import shlex
import sys
import tomllib

import pytest
import yaml

from tether import eval as eval_program
from tether.data.sumo import __main__ as sumo_program
from tether.evaluation.provenance import provenance
from tether.training import presets
from tether.worldmodel.conformance import plugin

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = (
    "benchmarks",
    "data",
    "docs",
    "evaluation",
    "examples",
    "policy",
    "simulator",
    "tether",
    "training",
    "worldmodel",
)
PAGES, PROGRAMS = (
    [*sorted(ROOT.glob(kind)), *sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob(kind))]
    for kind in ("*.md", "*.py")
)
OURS, FOREIGN = ("train.py", "eval.py"), ("venv", "pytest", "pip")
COPIES = {"my_logs": "examples.json_logs"}  # what a page has the reader make, and from what
SHELL = set("();<>|&") | {"&&", "||", ";;"}
# What stands for a placeholder where only some values are taken.
EXAMPLES = {("--measure", "NAME"): "realism", ("--scenes", "N"): "1", ("--batch", "B"): "1"}


def conformance(words: list[str]) -> None:
    """The option of ours; the rest is pytest's own."""
    parser = argparse.ArgumentParser()
    parser.addoption = parser.add_argument
    plugin.pytest_addoption(parser)
    rest = parser.parse_known_args(words)[1]
    assert all(word.startswith("-") for word in rest[::2]), rest


PARSERS = {
    "train.py": presets.parse,
    "eval.py": eval_program.parse,
    "tether.data.sumo": sumo_program.parse,
    "tether.worldmodel.conformance": conformance,
}


def parser_of(program: str):
    """The parser of a program's command line."""
    if program in PARSERS:
        return PARSERS[program]
    return importlib.import_module(COPIES.get(program, program)).parse


def code_of(page: str) -> list[tuple[str, str]]:
    """The language and the text of each piece of code in a page: fenced and indented blocks, and spans in backticks."""
    pieces, prose, block, fence = [], [], [], None
    for line in [*page.splitlines(), ""]:
        if fence is None and line.strip().startswith("```"):
            fence = line.strip("` ")
        elif fence is not None and line.strip().startswith("```"):
            pieces.append((fence, "\n".join(block)))
            fence, block = None, []
        elif fence is not None:
            block.append(line)
        elif line.startswith("    "):
            pieces.append(("", line))
        else:
            prose.append(line)
    assert fence is None, "a fence is not closed"
    for paragraph in "\n".join(prose).split("\n\n"):
        pieces += [("", " ".join(span.split())) for span in re.findall(r"`([^`]+)`", paragraph)]
        left = re.sub(r"`[^`]+`", "", paragraph)
        assert not re.search(r"python3? (-m|\S+\.py)|\.py --", left), f"a command outside of code: {left}"
    return pieces


def strings_of(tree) -> list[list[str] | str]:
    """Lists of words and texts in a manifest."""
    if isinstance(tree, list) and tree and all(isinstance(word, str) for word in tree):
        return [tree, *(word for word in tree if " " in word)]
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return [*itertools.chain.from_iterable(map(strings_of, inner)), *([tree] if isinstance(tree, str) else [])]


def simple_commands(text: str) -> list[list[str]]:
    """Words of each command of a shell text, those in quotes that hold commands included."""
    lexer = shlex.shlex(re.sub(r"\\\n\s*", "", text).replace("\n", " ; "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    commands = [[]]
    for word in lexer:
        if set(word) <= SHELL:
            commands.append([])
        elif re.search(r"python3? ", word):
            commands += simple_commands(word)
        else:
            commands[-1].append(word)
    return commands


def without_comments(text: str) -> str:
    """A shell text without what follows a `#`."""
    return re.sub(r"(^|\s)#.*", "", text, flags=re.M)


def commands_in(page: str) -> list[tuple[str, list[str]]]:
    """Program and words of each command line in a page. Raises: AssertionError for one that is not understood."""
    commands = []
    for language, text in code_of(page):
        if language == "yaml":
            strings = [each for document in yaml.safe_load_all(text) for each in strings_of(document)]
        else:
            strings = [without_comments(text)]
        for one in strings:
            if isinstance(one, str) and not re.search(r"python3?\s|(train|eval)\.py [\w-]", one):
                continue
            for words in simple_commands(one) if isinstance(one, str) else [one]:
                commands += command_of(words)
    return commands


def command_of(words: list[str]) -> list[tuple[str, list[str]]]:
    """Program and words of a command, as a list that is empty where the program is none of ours."""
    python = [place for place, word in enumerate(words) if re.fullmatch(r"([\w./]*/)?python3?", word)]
    named = [place for place, word in enumerate(words) if word in OURS]
    if not python and not named:
        return []
    rest = words[python[0] + 1 :] if python else words[named[0] :]
    # Brackets are around what may be left out, dots where more may follow.
    rest = [word for each in rest if (word := re.sub(r"^\[|\]$", "", each)) != "..."]
    if rest in ([], ["-m"]):  # the name of the interpreter or of its option, in a sentence
        return []
    assert rest[0] in ("-m", *OURS), f"not understood: {words}"
    program, *rest = rest[rest[0] == "-m" :]
    return [] if program in FOREIGN else [(program, [filled(*pair) for pair in itertools.pairwise(["", *rest])])]


def filled(option: str, word: str) -> str:
    """A word with a value in place of a placeholder."""
    if re.fullmatch(r"\$\w+", word):
        return "0"
    if re.fullmatch(r"(mine|my_models|my_objective):\w+", word):  # of the reader's own
        return "examples.residual:ResidualConfig"
    return EXAMPLES.get((option, word), word)


def check(program: str, words: list[str], capsys) -> None:
    """Has a program parse the words; `--help` ends with status 0, and without words its name is part of a sentence."""
    parser = parser_of(program)
    try:
        parser(words or ["--help"])
    except SystemExit as ended:
        if ended.code not in (0, None):
            pytest.fail(f"{program} {shlex.join(words)}: status {ended.code}\n{''.join(capsys.readouterr())}")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_the_pages_are_accepted(path, capsys):
    for program, words in commands_in(path.read_text(encoding="utf-8")):
        check(program, words, capsys)


def usage(path: pathlib.Path) -> list[str]:
    """The lines of a module's docstring that show how it is started, those that go on included."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    joined = re.sub(r"\n\s+(?=\[?--)", " ", docstring)
    lines = [re.sub(r"(?<=\S)\s{3,}.*", "", line.strip()) for line in joined.splitlines()]
    return [line for line in lines if line.startswith("python ")]


def test_commands_in_the_docstrings_are_accepted(capsys):
    usages = [(path, line) for path in PROGRAMS for line in usage(path)]
    assert len(usages) > 20
    for path, line in usages:
        commands = [each for words in simple_commands(line.replace("(", "")) for each in command_of(words)]
        assert commands, f"{path}: not understood: {line}"
        for program, words in commands:
            check(program, words, capsys)


@pytest.mark.parametrize(
    "path",
    [path for path in PROGRAMS if re.search(r"(= |return )(argparse\.Argument)?Parser\(", path.read_text())],
    ids=lambda path: path.stem,
)
def test_every_program_has_a_parse_function(path):
    """Of the name and the argument that the tests above expect."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parsers = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "parse"]
    assert [[each.arg for each in node.args.args] for node in parsers] == [["arguments"]]


def test_every_program_takes_dashes_and_underscores():
    """By `data.command_line.Parser`; examples, which are to be copied, have options of one word."""
    plain = [path for path in PROGRAMS if "= argparse.ArgumentParser(" in path.read_text()]
    assert plain and all(path.parent.name == "examples" for path in plain)
    assert not [path for path in plain if re.search(r'add_argument\("--\w+[-_]', path.read_text())]


def test_all_forms_of_a_command_are_recognised():
    page = """
Inline `python -m tether.data.build
--womd "GLOB" --out DIR`, and `eval.py RUN --scenes 4`, `train.py` alone, `.venv/bin/python -m pytest -x`.

    python eval.py [--world-model NAME=RUN ...] [--measure NAME ...]  # a comment --not-an-option

```
srun --kill .venv/bin/python train.py h200 --distributed.detect true \\
  --directory "$SCRATCH/x y" && echo done
ssh NAME --command "cd tether && .venv/bin/python train.py tiny \\
  --seed 3"
```

```yaml
args:
  - exec python train.py h200 --mesh.fsdp 8
    --distributed.index $JOB_COMPLETION_INDEX
command: [python, train.py, cpu, --distributed.detect, "true",
          --mesh.fsdp, "4"]
```
"""
    assert sorted(commands_in(page)) == sorted(
        [
            ("tether.data.build", ["--womd", "GLOB", "--out", "DIR"]),
            ("eval.py", ["RUN", "--scenes", "4"]),
            ("eval.py", ["--world-model", "NAME=RUN", "--measure", "realism"]),
            ("train.py", ["h200", "--distributed.detect", "true", "--directory", "$SCRATCH/x y"]),
            ("train.py", ["tiny", "--seed", "3"]),
            ("train.py", ["h200", "--mesh.fsdp", "8", "--distributed.index", "0"]),
            ("train.py", ["cpu", "--distributed.detect", "true", "--mesh.fsdp", "4"]),
        ]
    )


@pytest.mark.parametrize(
    "page",
    [
        "then python eval.py RUN",
        "`python benchmarks/simulator.py`",
        "```\npython -m tether.data.build",
        "`python -x train`",
    ],
)
def test_a_command_that_is_not_understood_fails(page):
    with pytest.raises(AssertionError):
        commands_in(page)


@pytest.mark.parametrize("words", [("train.py", ["--sed", "1"]), ("eval.py", ["--measure", "x"])])
def test_an_option_that_a_program_does_not_have_fails(words, capsys):
    with pytest.raises(pytest.fail.Exception, match="status 2"):
        check(*words, capsys)


def test_a_command_in_a_report_can_be_pasted(monkeypatch):
    """Names may hold blanks; absolute paths of a machine are cut to their last part."""
    words = ["eval.py", "--world-model", "rssm, no replays=/runs/a", "--out", "out/x y"]
    monkeypatch.setattr(sys, "argv", words)
    command = provenance(presets.PRESETS["cpu"](), "test")["command"]
    assert command_of(shlex.split(command)) == [
        ("eval.py", ["--world-model", "rssm, no replays=a", "--out", "out/x y"])
    ]


def test_every_extra_in_the_documents_is_one_of_this_project():
    """A package name that is not ours must not appear: its owner's code would be installed."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    texts = {path: path.read_text(encoding="utf-8") for path in (*PAGES, *PROGRAMS)}
    assert not [str(path) for path, text in texts.items() if "tether[" in text]
    named = {extra for text in texts.values() for extra in re.findall(r"pip install (?:-q )?-e \W*\.\[(\w+)\]", text)}
    assert named and named <= extras.keys()
