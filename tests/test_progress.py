"""Progress on terminals and in files, with a clock and a stream of the test's own."""

import io
import logging
import sys

import pytest

from tether.data.progress import CLEAR, Bar, Display, clock_time, log_above_bars
from tether.training.presets import PRESETS
from tether.training.stages import schedule, title


class Clock:
    """A clock that the test advances."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Stream(io.StringIO):
    """The output of a program; `terminal`: whether it is a terminal."""

    def __init__(self, terminal: bool):
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    @property
    def updates(self) -> list[str]:
        """What was drawn, one after another."""
        return self.getvalue().split(CLEAR if self.terminal else "\n")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def file(clock):
    return Display(Stream(terminal=False), clock)


@pytest.fixture
def terminal(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    return Display(Stream(terminal=True), clock)


def test_a_file_gets_a_line_every_ten_seconds_however_often_metrics_change(file, clock):
    with Bar("fit", 40, compiles=True, display=file) as bar:
        for step in bar.over(range(40)):
            clock.now += 1.0
            bar.show({"loss": f"{step}"})
    text = file._stream.getvalue()
    assert "\r" not in text and text.endswith("\n")
    assert file._stream.updates == [
        "fit: 0/40 steps, compiling",
        "fit: 10/40 steps, 1 steps/s, 0:30 left, loss 9",
        "fit: 20/40 steps, 1 steps/s, 0:20 left, loss 19",
        "fit: 30/40 steps, 1 steps/s, 0:10 left, loss 29",
        "fit: 40/40 steps, 1 steps/s, took 0:40, loss 39",
        "",
    ]


def test_neither_rate_nor_remaining_time_counts_the_compilation(file, clock):
    with Bar("fit", 10, compiles=True, display=file) as bar:
        clock.now += 60.0
        bar.advance()
        assert bar.text(clock.now) == "fit: 1/10 steps"  # nothing is known yet
        clock.now += 2.0
        bar.advance()
        assert bar.text(clock.now) == "fit: 2/10 steps, 0.5 steps/s, 0:16 left"


def test_steps_of_an_earlier_process_do_not_count_for_the_rate(file, clock):
    with Bar("fit", 100, 50, display=file) as bar:
        for _ in range(2):
            clock.now += 2.0
            bar.advance()
        assert bar.text(clock.now) == "fit: 52/100 steps, 0.5 steps/s, 1:36 left"


def test_nested_bars_are_silent_in_a_file_unless_they_last(file, clock):
    with Bar("imitate", 2, display=file) as outer:
        for _ in range(4):
            clock.now += 1.0
            with Bar("validation", 2, unit="scenes", display=file) as inner:
                inner.advance(2)
        with Bar("slow", 2, unit="scenes", display=file) as inner:
            for _ in inner.over(range(2)):
                clock.now += 7.0
        outer.advance(2)
    assert file._stream.updates == [
        "imitate: 0/2 steps",
        "slow: 1/2 scenes",
        "imitate: 2/2 steps, took 0:18",
        "",
    ]


def test_a_terminal_shows_the_innermost_bar_in_one_line(terminal, clock):
    with Bar("imitate", 2, display=terminal):
        clock.now += 1.0
        with Bar("validation", 2, unit="scenes", display=terminal):
            clock.now += 1.0
    assert terminal._stream.updates == [
        "",
        "imitate: 0/2 steps",
        "validation: 0/2 scenes",
        "imitate: 0/2 steps",
        "imitate: 0/2 steps, took 0:02\n",
    ]


def test_a_terminal_is_redrawn_twice_a_second_within_its_width(terminal, clock):
    with Bar("fit", 100, display=terminal) as bar:
        for _ in bar.over(range(100)):
            clock.now += 0.25
            bar.show({"gradient_norm": "1" * 60})
    drawn = terminal._stream.updates[1:]
    assert len(drawn) == 51  # 25 s, its first and its last state
    assert all(len(line) < 60 for line in drawn[:-1])
    assert "\n" not in "".join(drawn[:-1])


def test_messages_go_above_the_bar(terminal, file):
    for display in (terminal, file):
        with Bar("fit", 2, display=display):
            display.write("stopping after this step")
    assert terminal._stream.updates[1:4] == ["fit: 0/2 steps", "stopping after this step\n", "fit: 0/2 steps"]
    assert file._stream.updates[:2] == ["fit: 0/2 steps", "stopping after this step"]


def test_a_bar_is_taken_away_when_the_work_fails(terminal):
    with pytest.raises(ValueError, match="broken"), Bar("fit", 2, compiles=True, display=terminal) as bar:
        for _ in bar.over(range(2)):
            raise ValueError("broken")
    assert terminal._stream.getvalue().endswith("took 0:00\n")
    assert "compiling" not in terminal._stream.updates[-1]
    terminal.write("broken")
    assert terminal._stream.getvalue().endswith("\nbroken\n")


def test_work_without_parts_shows_nothing(file):
    with Bar("cl_sft", 0, display=file) as bar:
        assert list(bar.over(range(0))) == []
    assert file._stream.getvalue() == ""


def test_logs_are_bare_messages_whatever_a_library_has_set_up(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Stream(terminal=False))
    monkeypatch.setattr(logging.root, "handlers", [logging.StreamHandler()])
    log_above_bars()
    logging.getLogger("tether.training.loop").info("going on")
    logging.getLogger("some.library").info("not asked for")
    logging.getLogger("some.library").warning("odd")
    assert sys.stderr.getvalue() == "going on\nodd\n"


def test_units_have_titles_for_people():
    config = PRESETS["tiny"]()
    titles = [title(unit, config) for unit in schedule(config)]
    assert titles[0] == "stage 1 of 5, fit_world_model"
    assert titles[3:5] == ["stage 4 of 5, fit_value: measure_trust", "stage 4 of 5, fit_value"]
    assert titles[-1] == "stage 5 of 5, post_train: round 2 of 2, ground"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (61, "1:01"), (3723, "1:02:03")])
def test_times_are_written_as_clocks_do(seconds, text):
    assert clock_time(seconds) == text
