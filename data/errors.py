"""Errors of data: one type of error that names the place, and a ledger of skipped records."""

import contextlib
import dataclasses
import itertools
import json
import pathlib
import traceback
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tether.data.progress import DISPLAY

MOST_NAMED = 3  # skipped records named in the error that ends a build; each was printed when it was skipped


class DataError(ValueError):
    """Bad data, named: which file, which record, which field, and why.

    Args:
      reason: what was expected and found.
      field, record, file: where; empty where not known (yet, see `located`).
    """

    def __init__(self, reason: str, field: str = "", record: str = "", file: str = ""):
        self.reason, self.field, self.record, self.file = reason, field, record, file
        where = [self.file, f"record {record}" if record else "", f"field {field}" if field else ""]
        super().__init__(": ".join([", ".join(part for part in where if part), reason]).removeprefix(": "))

    def located(self, file: str, record: str) -> "DataError":
        """The same error, its place filled in by the reader of the file."""
        name = f"{record} ({self.record})" if self.record and self.record != record else record
        return DataError(self.reason, self.field, name, file)


def unexpected(error: Exception) -> DataError:
    """A `DataError` for an error of another type; it names the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" [{pathlib.PurePath(frames[-1].filename).name}:{frames[-1].lineno}]" if frames else ""
    return DataError(f"unexpected {type(error).__name__}: {str(error).partition(chr(10))[0][:200]}{where}")


@dataclasses.dataclass
class Noted:
    """Counts of one kind of defect in records that are used nevertheless.

    Attributes:
      records: number of records with the defect.
      count: number of defects in all of them: of tracks, lights, steps, or records.
      example: file and record of one of the records, the first by name.
    """

    records: int = 0
    count: int = 0
    example: str = ""

    def add(self, other: "Noted") -> None:
        """Adds another count; the order does not matter."""
        self.records, self.count = self.records + other.records, self.count + other.count
        self.example = min(self.example or other.example, other.example or self.example)

    def line(self, kind: str) -> str:
        """The counts as a sentence."""
        return f"{kind}: {self.count} in {self.records} records, such as {self.example}"


@dataclasses.dataclass
class SkipLedger:
    """Counts records seen and skipped, and what was noted about those that are used; stops the build once too large a
    fraction of the records is lost.

    Attributes:
      max_skipped: largest fraction of records that may be skipped, in [0, 1].
      patience: records to see before the fraction is checked, so that one early error does not stop a large build.
    """

    max_skipped: float = 0.05
    patience: int = 100

    def __post_init__(self):
        self._seen: set[tuple[str, str]] = set()
        self._skipped: dict[tuple[str, str], DataError] = {}
        self._notes: dict[tuple[str, str], Mapping[str, int]] = {}

    def see(self, file: str, record: str) -> None:
        """Counts a record; one that is read again (once per split) counts once."""
        self._seen.add((file, record))

    def skip(self, file: str, record: str, error: DataError) -> None:
        """Counts and shows a skipped record. Raises: DataError once the fraction is exceeded."""
        self.see(file, record)
        if (file, record) not in self._skipped:
            self._skipped[file, record] = error.located(file, record)
            DISPLAY.write(f"skipped {len(self._skipped)} of {len(self._seen)}: {self._skipped[file, record]}")
        self._check_fraction(max(len(self._seen), self.patience))

    @contextlib.contextmanager
    def guard(self, file: str, record: str) -> Iterator[None]:
        """Skips the record if its block raises an error of any type.

        A record is outside data, and an unforeseen type of error must not end a build of a million records: it is
        counted and named like the others. `MemoryError` passes, and so does an interrupt.
        """
        try:
            yield
        except MemoryError:
            raise  # memory that is used up is no fault of one record
        except Exception as error:  # of any type: what a damaged record raises cannot be foreseen
            self.skip(file, record, error if isinstance(error, DataError) else unexpected(error))

    def note(self, file: str, record: str, counts: Mapping[str, int]) -> None:
        """Notes defects of a record that is used. A record that is read again counts once.

        Args: counts: by kind, such as `tracks left out: no size`; shown in `summary.json`. Those of 0 are left out.
        """
        if any(counts.values()):
            self._notes[file, record] = {**self._notes.get((file, record), {}), **counts}

    def finish(self) -> None:
        """Checks the exact fraction at the end of the build. Raises: DataError."""
        self._check_fraction(len(self._seen))

    def _check_fraction(self, seen: int) -> None:
        if len(self._skipped) > self.max_skipped * seen:
            raise too_many(len(self._skipped), len(self._seen), self.max_skipped, map(str, self.errors))

    @property
    def seen(self) -> int:
        """Records seen, skipped ones included."""
        return len(self._seen)

    @property
    def notes(self) -> dict[str, Noted]:
        """The notes by kind."""
        noted: dict[str, Noted] = {}
        for (file, record), counts in self._notes.items():
            for kind, count in counts.items():
                if count:
                    noted.setdefault(kind, Noted()).add(Noted(1, count, f"{file}, record {record}"))
        return noted

    @property
    def errors(self) -> tuple[DataError, ...]:
        """One per skipped record, in the order they were met."""
        return tuple(self._skipped.values())


def too_many(skipped: int, seen: int, allowed: float, messages: Iterable[str]) -> DataError:
    """The error that ends a build. Args: allowed: fraction of the records seen.   messages: of the skipped ones."""
    first = "; ".join(itertools.islice(messages, MOST_NAMED))
    more = f"; and {skipped - MOST_NAMED} more" if skipped > MOST_NAMED else ""
    reason = f"skipped {skipped} of {seen} records, more than the allowed fraction {allowed:g} (--max-skipped)"
    return DataError(f"{reason}: {first}{more}")


def read_json(path: pathlib.Path) -> Any:
    """The content of a JSON file. Raises: DataError where it cannot be read or is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # of the file, of encoding and syntax, of nesting
        raise DataError(f"expected JSON ({error})", file=str(path)) from error
