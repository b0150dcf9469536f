"""How `train.py` ends: its exit status and its one line, whatever fails, the evaluation included."""

import os

import pytest

from tether import train
from tether.training import directory
from tether.training.stop import Interrupted
from tether.training.watch import AlarmError

STEPS = ("prepare", "train", "evaluate")
ENDS = [
    (ValueError("the data is not there"), 2, "the data is not there\n"),
    (OSError(28, "No space left on device", "report.md"), 2, "[Errno 28] No space left on device: 'report.md'\n"),
    (AlarmError("collapsed"), 3, "collapsed; {} keeps its last checkpoint\n"),
    (Interrupted("stopped by SIGTERM"), 130, "stopped by SIGTERM. The same command goes on from there.\n"),
]


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs the command in a process that computes nothing, with what it calls replaced."""

    def run(**replaced):
        steps = {
            "prepare": lambda config: None,
            "train": lambda job, place: None,
            "evaluate": lambda place, model: None,
        }
        for name, function in (steps | replaced).items():
            monkeypatch.setattr(train, name, function)
        return train.main(["tiny", "--directory", str(tmp_path / "run")])

    return run


def failing(error):
    def fail(*_):
        raise error

    return fail


@pytest.mark.parametrize(
    ("step", "error", "status", "message"),
    [(step, *end) for step in STEPS for end in ENDS if (step, end[1]) != ("prepare", 3)],  # nothing is watched yet
)
def test_a_failure_ends_with_one_line_and_a_status(command, tmp_path, capsys, step, error, status, message):
    assert command(**{step: failing(error)}) == status
    printed = capsys.readouterr()
    assert printed.out + printed.err == message.format(tmp_path / "run")
    assert (tmp_path / "run").exists() == (step != "prepare")


def test_the_directory_is_held_until_the_evaluation_is_over(command, tmp_path):
    def evaluate(place, _):
        with pytest.raises(ValueError, match=rf"in use by process {os.getpid()} "):
            directory._lock(place)

    assert command(evaluate=evaluate) == 0
    os.close(directory._lock(tmp_path / "run"))


def test_a_file_in_place_of_the_directory_is_reported_in_one_line(command, tmp_path, capsys):
    (tmp_path / "run").write_text("in the way")
    assert command() == 2
    assert capsys.readouterr().err == f"{tmp_path / 'run'} cannot hold a run (it is a file): name another --directory\n"
