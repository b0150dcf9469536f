"""A run is data: nothing that its settings name is imported or called unless the user names it as well."""

import dataclasses
import json
import re
import sys
from types import SimpleNamespace

import pytest

from tether import eval as command
from tether import train
from tether.evaluation import policies as evaluation
from tether.evaluation import sim_agents
from tether.evaluation.restore import read_run
from tether.evaluation.world_models.study import open_study
from tether.simulator.config import SimulatorConfig
from tether.training import models, presets, resume
from tether.training.directory import claim
from tether.worldmodel import registry

PAYLOAD = """
import pathlib
import dataclasses
from tether.worldmodel.kinematic import Kinematic
pathlib.Path(r"{marker}").write_text("was run")

def call():
    pathlib.Path(r"{marker}").write_text("was called")

Config = call

@dataclasses.dataclass(frozen=True)
class Mine:
    def build(self, simulator):
        return Kinematic(self, simulator)
"""
IN_RUN = ("fetched.run_7.payload:Mine", "fetched.run_7.payload:Config", "fetched.run_7.payload:call")
HOSTILE = (
    *IN_RUN,
    *("fetched.run-7.payload:Config", "fetched.run_7:x", "payload:Config", ".payload:Config", "..run_7.payload:Mine"),
    *("os:abort", "os:fork", "os:_exit", "os:getpid", "os:environ", "os:sep", "os.path:join", "sys:exit", "sys:path"),
    *("builtins:list", "builtins:breakpoint", "builtins:input", "builtins:exec", "builtins:type", "builtins:object"),
    *("dataclasses:dataclass", "threading:main_thread", "antigravity:geohash", "this:s", "idlelib.idle:x"),
    *(
        "benchmarks.kills:main",
        "tether.eval:main",
        "tether.train:main",
        "__main__:main",
        "pytest:main",
        "subprocess:Popen",
    ),
    *(
        "tether.simulator.config:SimulatorConfig",
        "tether.policy.vla:VLAConfig",
        "tether.worldmodel.fitting:FittingConfig",
    ),
    *("examples.residual:ResidualConfig", "examples.residual:Residual", "tether.worldmodel.registry:BUILT_IN"),
    *(
        ".evil:Config",
        ":x",
        "x:",
        ":",
        "",
        " ",
        "a..b:C",
        "a:b:c",
        "a:b.c",
        "a b:C",
        "rsm",
        "os",
        "os;abort:x",
        "/etc:x",
    ),
    *("../payload:Config", "runs/cpu:Config", "a\x00b:C", "\x1b[2J:C", "payload:Config\n", "x" * 100_000),
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that was fetched from elsewhere, on the Python path, with a module that leaves a mark where it is run."""
    folder = tmp_path / "fetched" / "run_7"
    folder.mkdir(parents=True)
    (folder / "payload.py").write_text(PAYLOAD.format(marker=tmp_path / "marker"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(folder)  # as if one stood in it
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield folder
    assert not (tmp_path / "marker").exists()
    for module in set(sys.modules) - before:
        del sys.modules[module]


def write(run, world_model, **changes):
    """The settings of a run of preset tiny that names a world model."""
    config = dataclasses.replace(presets.tiny(), world_model=world_model, **changes)
    (run / "config.json").write_text(json.dumps(dataclasses.asdict(config)))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_run_loads_nothing(run, name):
    write(run, name)
    before = set(sys.modules)
    with pytest.raises(ValueError, match=r"config\.json: world model"):
        read_run(run)
    assert set(sys.modules) == before


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_built_in_models_are_read(run, name):
    for each in (name, registry.BUILT_IN[name]):
        write(run, each)
        assert read_run(run).world_model == each


SUBMIT = ("--womd", "none", "--out", "out", "--account", "a", "--method", "m", "--authors", "A", "--parameters", "1M")


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        (command.main, ("fetched/run_7",)),
        (command.main, ("--world-model", "fetched/run_7")),
        (command.main, ("--world-model", "named=fetched/run_7")),
        (command.main, ("--world-model", "kinematic", "--policies-of", "fetched/run_7")),
        (sim_agents.main, ("fetched/run_7", *SUBMIT)),
    ],
)
@pytest.mark.parametrize("trust", [(), ("--trust", "examples"), ("--trust", "fetched.run_7.payload")])
def test_commands_end_with_one_line(run, capsys, program, arguments, trust):
    """Trusted or not: from below the run's folder nothing is loaded."""
    for name in (IN_RUN[0], "payload:Mine", "os:abort", ":x"):
        write(run, name)
        assert program([*arguments, *trust]) == 2
        message = capsys.readouterr().err
        assert "config.json: world model" in message and len(message.splitlines()) == 1


def test_compiled_programs_beside_a_run_are_not_loaded(run, monkeypatch):
    """They are machine code: what was fetched with a run is not where they are looked for."""
    write(run, "rssm")
    places = []
    monkeypatch.setattr(evaluation, "cache_programs", lambda directory: places.append(directory.absolute()))
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        evaluation.evaluate_run(run)
    assert places and "fetched" not in places[0].parts


def test_the_objective_of_a_run_is_not_loaded(run):
    """What a run was trained by is of no use to those that read it."""
    rounds = dataclasses.replace(presets.tiny().rounds, objective=IN_RUN[0])
    write(run, "rssm", rounds=rounds)
    before = set(sys.modules)
    models.build(read_run(run))
    assert not [name for name in set(sys.modules) - before if "payload" in name]
    with pytest.raises(SystemExit, match="2"):
        presets.parse(["tiny", "--rounds.objective", IN_RUN[0], "--directory", str(run)])


def test_training_beside_a_run_loads_nothing_of_it(run):
    """A run that is gone on from, or whose directory is taken, is compared with the command line's settings."""
    write(run, IN_RUN[0])
    config = dataclasses.replace(presets.tiny(), directory=str(run))
    with pytest.raises(ValueError, match="world_model"), claim(config):
        pass
    config = dataclasses.replace(config, directory=None, start_from=str(run))
    with pytest.raises(ValueError, match=r"start_from.*other settings:\n  world_model"):
        resume.shared_start(SimpleNamespace(config=config), None)


def test_a_module_that_the_user_names_is_loaded_from_elsewhere(run, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    source = PAYLOAD.format(marker=tmp_path / "trusted")
    (tmp_path / "elsewhere" / "my_models.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    write(run, "my_models:Mine")
    for trusted in (("my_models",), ("other", "my_models:Mine")):
        config = read_run(run, trusted)
        assert not (tmp_path / "trusted").exists()
    model = registry.build(config.world_model, None, config.simulator)
    assert type(model).__name__ == "Kinematic" and (tmp_path / "trusted").read_text() == "was run"
    for trusted in (("my_model",), ("my_models.part",), ("my_models:Other",), ("",), (".",)):
        with pytest.raises(ValueError, match="name it yourself, --trust my_models"):
            read_run(run, trusted)


def test_an_import_path_given_again_is_trust(run, capsys):
    """`--world-model RUN --world-model its:Config` gets as far as the run's missing checkpoint."""
    write(run, "examples.residual:ResidualConfig")
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        open_study([str(run), "examples.residual:ResidualConfig"], scenes=1)
    with pytest.raises(ValueError, match=r"--trust examples\.residual"):
        open_study([str(run)], scenes=1)


def test_a_link_out_of_the_run_or_into_it_is_below_it(run, tmp_path, monkeypatch):
    (tmp_path / "linked.py").symlink_to(run / "payload.py")
    (tmp_path / "outside.txt").write_text(PAYLOAD.format(marker=tmp_path / "marker"))
    (run / "inside.py").symlink_to(tmp_path / "outside.txt")
    for name in ("linked:Mine", "fetched.run_7.inside:Mine", "inside:Mine"):
        write(run, name)
        with pytest.raises(ValueError, match="lies in a run's folder"):
            read_run(run, (name,))


def test_the_command_line_takes_no_model_from_below_a_run(run, capsys):
    write(run, "rssm")
    with pytest.raises(ValueError, match="lies in a run's folder"):
        open_study([IN_RUN[0]], [str(run)], scenes=1)
    for option in ("--directory", "--start_from"):
        with pytest.raises(SystemExit, match="2"):
            presets.parse(["tiny", "--world_model", IN_RUN[0], option, str(run)])
        assert "lies in a run's folder" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--policy", "--judge"])
@pytest.mark.parametrize("name", [*IN_RUN, "payload:Mine"])
def test_no_policy_and_no_judge_is_loaded_from_below_a_run(run, capsys, option, name):
    write(run, "rssm")
    before = set(sys.modules)
    assert command.main(["fetched/run_7", option, name]) == 2
    message = capsys.readouterr().err
    assert "lies in a run's folder" in message and len(message.splitlines()) == 1
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--policy", "mine"), "policy 'mine': expected one of .*'idm'.* or package.module:Config"),
        (("--policy", "nowhere.mine:Mine"), "policy 'nowhere.mine:Mine': there is no module 'nowhere.mine'"),
        (("--policy", "examples.time_gap:TimeGap"), "'TimeGap' is no config class.*did you mean 'TimeGapConfig'"),
        (("--policy", "os:abort"), "'abort' is no config class, a dataclass with build.simulator.; it has none"),
        (("--policy", "examples.fog:FogConfig"), r"FogConfig builds a Fog without \['act'\]"),
        (("--judge", "examples.time_gap:TimeGapConfig"), r"judge .* builds a TimeGap without \['observe', 'step'\]"),
    ],
)
def test_what_a_policy_and_a_judge_may_name(arguments, message, capsys, tmp_path):
    assert command.main([*arguments, "--scenes", "1", "--out", str(tmp_path)]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os:abort", "'abort' is no config class, a dataclass with build.simulator.; it has none"),
        ("sys:exit", "'exit' is no config class"),
        ("builtins:list", "'list' is no config class"),
        ("builtins:Config", "has no 'Config'"),
        ("tether.simulator.config:SimulatorConfig", "'SimulatorConfig' is no config class"),
        ("examples.residual:Residual", "it has LikeliestConfig, ResidualConfig; did you mean 'ResidualConfig'"),
        ("examples.residual:residual", "has no 'residual'.*did you mean 'ResidualConfig'"),
        ("tether.policy.vla:VLAConfig", r"VLAConfig.build\(simulator\): TypeError"),
        ("tether.worldmodel.fitting:FittingConfig", r"FittingConfig.build\(simulator\): TypeError"),
        ("broken:Config", r"importing broken: ZeroDivisionError: division by zero \(broken.py:3\)"),
        ("leaves:Config", "importing leaves: SystemExit: 0"),
        ("unbuilt:NoModel", "builds a int without"),
        ("unbuilt:NoDefault", r"found none of \['width'\]"),
    ],
)
def test_what_an_import_path_may_name(tmp_path, monkeypatch, name, message):
    """The user named it, so its module is run; nothing of it is called but a config class and its `build`."""
    (tmp_path / "broken.py").write_text("\n\n1 / 0\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "unbuilt.py").write_text(
        "import dataclasses\n@dataclasses.dataclass\nclass NoModel:\n    def build(self, simulator):\n"
        "        return 1\n@dataclasses.dataclass\nclass NoDefault(NoModel):\n    width: int\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=message):
        registry.build(name, None, SimulatorConfig())


def test_a_wrong_name_claims_no_directory(tmp_path, capsys):
    arguments = ["tiny", "--directory", str(tmp_path / "run"), "--world_model", "examples.residual:Residual"]
    assert train.main(arguments) == 2
    assert "it has LikeliestConfig, ResidualConfig" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
