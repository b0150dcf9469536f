"""Options of the programs: their texts in `--help`, and how their names may be written."""

import dataclasses
import functools
import re

import pytest

from tether import eval as eval_program
from tether.data import build
from tether.data.command_line import Parser
from tether.data.settings import setting, settings_of
from tether.training import presets
from tether.training.config import flatten

LEANS = ("of ", "and ", "nor ", "for ", "over ", "with ", "see ", "[", "(", "|")  # how a fragment begins
COMMON = {
    *("seed", "directory", "fresh", "stage", "data.directory", "world_model"),
    *("fit.steps", "imitation.steps", "rounds.objective", "rounds.rounds"),
}


def printed(arguments, capsys) -> str:
    """What a request for help prints."""
    with pytest.raises(SystemExit, match="0"):
        presets.parse(arguments)
    return capsys.readouterr().out


@pytest.fixture
def texts(capsys, monkeypatch) -> dict[str, str]:
    """The help text of each option, without its default."""
    monkeypatch.setenv("COLUMNS", "120")
    lines, name = {}, None
    for line in printed(["cpu", "--help"], capsys).splitlines():
        inner = line.strip("│").rstrip()  # a frame, where the output can show one
        if option := re.match(r" {1,2}--([\w.]+)", inner):
            name = option[1]
            lines[name] = []
        elif not inner.startswith(" " * 6):
            name = None
        elif name is not None:
            lines[name].append(inner.strip())
    return {name: re.sub(r"\(default: .*\)$", "", " ".join(lines_of)).strip() for name, lines_of in lines.items()}


def declared(name: str) -> tuple[type, str]:
    """The class that declares a field of the config, and the field: objectives inherit some."""
    *sections, field = name.split(".")
    kind = type(functools.reduce(getattr, sections, presets.cpu()))
    return next(each for each in reversed(kind.__mro__) if field in vars(each).get("__annotations__", {})), field


def test_every_option_has_a_help_text_of_its_own(texts):
    assert texts.keys() == flatten(presets.cpu()).keys()
    wrong = [name for name, text in texts.items() if len(text.split()) < 3 or text.startswith(LEANS) or "   " in text]
    assert not wrong
    fields = {}
    for name, text in texts.items():
        fields.setdefault(text, set()).add(declared(name))
    assert not [shared for shared in fields.values() if len(shared) > 1]


def test_the_short_help_shows_the_options_that_are_changed_most(capsys):
    lines = printed(["--help"], capsys).splitlines()
    listed = {match[1]: match[2].split() for line in lines if (match := re.match(r"  --([\w.]+) (.*)", line))}
    assert listed.keys() == COMMON
    values = flatten(presets.cpu())
    assert all(value == str(values[name]) and text for name, (value, *text) in listed.items())
    assert "train.py PRESET --help" in lines[-1] and max(map(len, lines)) <= 120


@pytest.mark.parametrize(
    "options",
    [
        ["--world_model", "tokens", "--rounds.learning_rate", "0.5", "--fit.refit_steps=3"],
        ["--world-model", "tokens", "--rounds.learning-rate", "0.5", "--fit.refit-steps=3"],
        ["--world-model=tokens", "--rounds.learning-rate=0.5", "--fit.refit_steps", "3"],
    ],
)
def test_dashes_and_underscores_are_the_same_when_training(options):
    config = presets.parse(["tiny", *options, "--directory", "runs/my_run-2"])
    assert (config.world_model, config.rounds.learning_rate, config.fit.refit_steps) == ("tokens", 0.5, 3)
    assert config.directory == "runs/my_run-2"


def test_dashes_and_underscores_are_the_same_in_other_programs():
    for name in ("world-model", "world_model"):
        options = eval_program.parse([f"--{name}", "a_b=runs/c-d", f"--{name}=e_f", "--out", "my_folder"])
        assert options.world_model == ["a_b=runs/c-d", "e_f"] and options.out.name == "my_folder"
    arguments = ["--womd", "a_b", "--out", "c-d"]
    assert build.parse([*arguments, "--egos-per-scene", "2"]) == build.parse([*arguments, "--egos_per_scene", "2"])


def test_arguments_after_two_dashes_are_no_options():
    parser = Parser()
    parser.add_argument("words", nargs="*")
    assert parser.parse_args(["a_b", "--", "--c_d"]).words == ["a_b", "--c_d"]


@dataclasses.dataclass(frozen=True)
class Inner:
    count: int = setting(3, least=0)
    plain: float = 0.5


@dataclasses.dataclass(frozen=True)
class Middle:
    kind: str = "one"
    inner: Inner = setting(Inner(), acts_with=("kind", "two"), free=True)


@dataclasses.dataclass(frozen=True)
class Outer:
    middle: Middle = setting(Middle(), least=2, size=True)


def test_facts_of_a_section_hold_for_settings_without_their_own():
    facts = {each.name: each.facts for each in settings_of(Outer())}
    assert [*facts] == ["middle.kind", "middle.inner.count", "middle.inner.plain"]
    assert [each.least for each in facts.values()] == [2, 0, 2]
    assert [each.free for each in facts.values()] == [False, True, True]
    assert all(each.size for each in facts.values())
    assert facts["middle.inner.plain"].acts_with == ("middle.kind", "two") and facts["middle.kind"].acts_with is None


def test_an_unknown_fact_is_refused():
    with pytest.raises(TypeError, match="leest"):
        setting(1, leest=0)


def test_settings_act_with_settings_that_exist():
    values = flatten(presets.cpu())
    needed = {each.facts.acts_with for each in settings_of(presets.cpu())} - {None}
    assert needed and all(isinstance(values[name], type(value)) for name, value in needed)
