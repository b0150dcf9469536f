"""Command lines on which a dash and an underscore are the same in the names of options."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that takes `--world_model` for `--world-model`; its options are added with dashes."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As `ArgumentParser.parse_known_args`, which all ways to parse call."""
        words = list(sys.argv[1:] if args is None else args)
        options = words.index("--") if "--" in words else len(words)  # what follows are values
        return super().parse_known_args([*map(with_dashes, words[:options]), *words[options:]], namespace)


def with_dashes(word: str) -> str:
    """A word with dashes in the name of the option that it is, if it is one; a value after `=` stays."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word
