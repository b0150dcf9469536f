"""Progress of a piece of work: on a terminal one line that is redrawn, in a file a new line every ten seconds.

Bars nest: the innermost is shown, and only the outermost leaves a line behind. Messages go above the bar.
"""

import logging
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TextIO, TypeVar

TERMINAL_S, FILE_S = 0.5, 10.0  # between two updates [s]
CLEAR = "\r\x1b[K"
Item = TypeVar("Item")


class Display:
    """The place where bars are drawn.

    Args: stream: standard error, whatever it is at the time, if None.   clock: a time that never runs backwards [s].
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic):
        self._stream, self.clock = stream, clock
        self._bars: list[Bar] = []
        self._drawn = -math.inf

    @property
    def _terminal(self) -> bool:
        return (self._stream or sys.stderr).isatty()

    def write(self, message: str) -> None:
        """Prints a line above the bar."""
        if self._bars and self._terminal:
            self._put(f"{CLEAR}{message}\n")
            self.draw(now=True)
        else:
            self._put(f"{message}\n")

    def open(self, bar: "Bar") -> None:
        """Shows a bar. In a file a nested one waits until a line is due."""
        self._bars.append(bar)
        self.draw(now=self._terminal or len(self._bars) == 1)

    def draw(self, now: bool = False) -> None:
        """Draws the innermost bar if an update is due, or `now`."""
        time_s = self.clock()
        if not self._bars or (not now and time_s - self._drawn < (TERMINAL_S if self._terminal else FILE_S)):
            return
        self._drawn = time_s
        text = self._bars[-1].text(time_s)
        if self._terminal:
            self._put(CLEAR + text[: shutil.get_terminal_size().columns - 1])
        else:
            self._put(f"{text}\n")

    def close(self, bar: "Bar") -> None:
        """Takes a bar away; the outermost leaves its last state and its time."""
        self._bars.remove(bar)
        if self._bars:
            self.draw(now=self._terminal)
        else:
            self._put(f"{CLEAR * self._terminal}{bar.text(self.clock(), ended=True)}\n")

    def _put(self, text: str) -> None:
        stream = self._stream or sys.stderr
        stream.write(text)
        stream.flush()


DISPLAY = Display()


class Bar:
    """A piece of work of `total` equal parts, used in a `with` statement; one that has no parts left shows nothing.

    Rate and remaining time count from the end of the first part: that one may wait for compilation.

    Args:
      done: parts that were done before.   unit: what the parts are, plural.
      compiles: whether the first part waits for compilation.
    """

    def __init__(
        self,
        name: str,
        total: int,
        done: int = 0,
        *,
        unit: str = "steps",
        compiles: bool = False,
        display: Display = DISPLAY,
    ):
        self.name, self.total, self.done, self.unit = name, total, done, unit
        self._compiles, self._display = compiles, display
        self._left = total > done
        self._values: dict[str, str] = {}

    def __enter__(self) -> "Bar":
        self._began = self._display.clock()
        self._first: tuple[int, float] | None = None
        if self._left:
            self._display.open(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._left:
            self._display.close(self)

    def advance(self, parts: int = 1) -> None:
        """Counts parts that are done."""
        self.done += parts
        self._first = self._first or (self.done, self._display.clock())
        if self.done < self.total:  # the last state is shown at the end
            self._display.draw()

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items one after another, a part each."""
        for item in items:
            yield item
            self.advance()

    def show(self, values: Mapping[str, str]) -> None:
        """Values to print beside the progress from the next update on."""
        self._values = dict(values)

    def text(self, time_s: float, ended: bool = False) -> str:
        """The line, at a time of the display's clock [s]."""
        facts = [f"{self.name}: {self.done}/{self.total} {self.unit}"]
        parts, seconds = (self.done - self._first[0], time_s - self._first[1]) if self._first else (0, 0.0)
        if self._compiles and not self._first and not ended:
            facts.append("compiling")
        if parts > 0 and seconds > 0:
            facts.append(f"{parts / seconds:.3g} {self.unit}/s")
        if ended:
            facts.append(f"took {clock_time(time_s - self._began)}")
        elif parts > 0:
            facts.append(f"{clock_time((self.total - self.done) * seconds / parts)} left")
        return ", ".join([*facts, *(f"{name} {value}" for name, value in self._values.items())])


def clock_time(seconds: float) -> str:
    """m:ss, or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


class Messages(logging.Handler):
    """Prints log records above the bar, the bare message."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        DISPLAY.write(self.format(record))


def log_above_bars() -> None:
    """Makes `Messages` the way of all logging: warnings of libraries, and what this program reports.

    Libraries set up logging when they are imported, so what is there is replaced.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[Messages()], force=True)
    logging.getLogger("tether").setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns about multi-process merges on every save
