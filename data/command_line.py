"""What the command lines have in common: names of options, and the exit status of what cannot work."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that takes `--world_model` for `--world-model`; its options are added with dashes."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As `ArgumentParser.parse_known_args`, which all ways to parse call."""
        words = list(sys.argv[1:] if args is None else args)
        options = words.index("--") if "--" in words else len(words)  # what follows are values
        return super().parse_known_args([*map(with_dashes, words[:options]), *words[options:]], namespace)


def status_of(work: Callable[[], int | None], *more: type[Exception]) -> int:
    """The exit status of a program's work: what it returns, 0 for None.

    Input or settings that cannot work give the error's message on standard error, and 2.

    Args: more: types of such errors, beside ValueError and OSError.
    """
    try:
        return work() or 0
    except (ValueError, OSError, *more) as error:
        print(error, file=sys.stderr)
        return 2


def with_dashes(word: str) -> str:
    """A word with dashes in the name of the option that it is, if it is one; a value after `=` stays."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word
