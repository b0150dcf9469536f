"""What goes wrong with data: one error that names the place, a ledger of what was skipped, files that are no JSON."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterable
from typing import Any


class DataError(ValueError):
    """Bad data, named: which file, which record, which field, and why.

    Args:
      reason: what is wrong: expected and found.
      field, record, file: where; empty where not known (yet, see `located`).
    """

    def __init__(self, reason: str, field: str = "", record: str = "", file: str = ""):
        self.reason, self.field, self.record, self.file = reason, field, record, file
        where = [self.file, f"record {record}" if record else "", f"field {field}" if field else ""]
        super().__init__(": ".join([", ".join(part for part in where if part), reason]).removeprefix(": "))

    def located(self, file: str, record: str) -> "DataError":
        """The same error with the place filled in by the reader, who knows it."""
        name = f"{record} ({self.record})" if self.record and self.record != record else record
        return DataError(self.reason, self.field, name, file)


@dataclasses.dataclass
class SkipLedger:
    """Counts records seen and skipped; stops the build once too large a share is lost.

    Attributes:
      max_skipped: largest share of records that may be skipped, in [0, 1].
      patience: records to see before the share is judged, so that one early error in a large set does not stop it.
    """

    max_skipped: float = 0.05
    patience: int = 100

    def __post_init__(self):
        self._seen: set[tuple[str, str]] = set()
        self._skipped: dict[tuple[str, str], DataError] = {}

    def see(self, file: str, record: str) -> None:
        """Counts a record; one that is read again (once per split) counts once."""
        self._seen.add((file, record))

    def skip(self, file: str, record: str, error: DataError) -> None:
        """Counts and shows a skipped record. Raises: DataError with the whole list once the share is exceeded."""
        self.see(file, record)
        if (file, record) not in self._skipped:
            self._skipped[file, record] = error.located(file, record)
            print(f"skipped {len(self._skipped)} of {len(self._seen)}: {self._skipped[file, record]}", file=sys.stderr)
        self._judge(max(len(self._seen), self.patience))

    def finish(self) -> None:
        """Judges the exact share at the end of the build. Raises: DataError with the whole list."""
        self._judge(len(self._seen))

    def _judge(self, seen: int) -> None:
        if len(self._skipped) > self.max_skipped * seen:
            raise too_many(len(self._skipped), len(self._seen), self.max_skipped, map(str, self.errors))

    @property
    def seen(self) -> int:
        """Records seen, skipped ones included."""
        return len(self._seen)

    @property
    def errors(self) -> tuple[DataError, ...]:
        """One per skipped record, in the order they were met."""
        return tuple(self._skipped.values())


def too_many(skipped: int, seen: int, allowed: float, messages: Iterable[str]) -> DataError:
    """The error that ends a build. Args: allowed: share of the records seen.   messages: of the skipped ones."""
    listing = "\n  ".join(messages)
    reason = f"skipped {skipped} of {seen} records, more than the allowed share {allowed:g} (--max-skipped)"
    return DataError(f"{reason}:\n  {listing}")


def read_json(path: pathlib.Path) -> Any:
    """What a JSON file holds. Raises: DataError where it cannot be read or is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # of text and JSON both; nesting is not limited
        raise DataError(f"expected JSON ({error})", file=str(path)) from error
