"""Text as token ids and back: a byte-level BPE that knows the data set's words and spells any others.

One vocabulary: first the phrases that the policy says (`data.text.VOCABULARY`), one token each, then the 256 bytes,
then what they merge into. Text never becomes a phrase's token, whatever it holds: nothing that somebody writes into a
data set can end an instruction or pass for a decision.

python -m tether.data.tokenizer [--data DIR]     # builds data/tokenizer.json again, from the starter set's text
"""

import argparse
import functools
import itertools
import pathlib
import sys
from collections.abc import Iterable, Iterator

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from tether.data.errors import DataError, read_json
from tether.data.text import (
    CAUSES,
    DISTANCES,
    DISTANCES_M,
    KMH_STEP,
    LATERAL,
    LONGITUDINAL,
    MANEUVERS,
    VOCABULARY,
    compose,
    instruct,
    navigate,
)

FILE = pathlib.Path(__file__).with_name("tokenizer.json")
MOST_TOKENS = 1024
LONGEST = 1000  # characters of one text
FASTEST_KMH = 130
WORDS = r" ?[\p{L}/]+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"  # merges stay within these: `km/h` is one


@functools.cache
def load(file: pathlib.Path = FILE) -> tokenizers.Tokenizer:
    """The tokenizer of a file. Raises: DataError for a missing file, or one of other phrases than `data.text` has."""
    if not file.is_file():
        raise DataError("expected a tokenizer (made by `python -m tether.data.tokenizer`), found none", file=str(file))
    read_json(file)
    try:
        loaded = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises nothing more special
        raise DataError(f"expected a tokenizer of the package tokenizers ({error})", file=str(file)) from error
    found = tuple(loaded.id_to_token(index) for index in range(len(VOCABULARY)))
    if found != tuple(map(mark, VOCABULARY)):
        raise DataError(f"expected the phrases {VOCABULARY} first, found {found}", "vocabulary", file=str(file))
    loaded.encode_special_tokens = True  # a phrase in a text is text
    return loaded


def mark(phrase: str) -> str:
    """How a phrase stands in the file: apart from the words that it is made of."""
    return phrase if phrase.startswith("<") else f"<{phrase}>"


def size() -> int:
    """Tokens in all."""
    return load().get_vocab_size()


def tokens(text: str) -> list[int]:
    """The ids of a text. Raises: DataError for more than `LONGEST` characters, or what UTF-8 cannot hold."""
    if len(text) > LONGEST:
        raise DataError(f"expected at most {LONGEST} characters, found {len(text)}: {text[:40]!r}...", "instruction")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"expected text that UTF-8 can hold ({error.reason})", "instruction") from error
    return load().encode(text).ids


def encode(text: str, length: int) -> np.ndarray:
    """The first `length` ids of a text, 0 where it is shorter: int32[length]. Raises: see `tokens`."""
    ids = np.zeros(length, np.int32)
    first = tokens(text)[:length]
    ids[: len(first)] = first
    return ids


def decode(ids: Iterable[int]) -> str:
    """The text of ids, phrases and padding left out."""
    return load().decode([int(i) for i in ids])


def sentences() -> Iterator[str]:
    """All that can be said, and every instruction without free text."""
    yield from itertools.starmap(compose, itertools.product(LONGITUDINAL, LATERAL, CAUSES, DISTANCES))
    limits = range(0, FASTEST_KMH + 1, KMH_STEP)
    for maneuver, distance, limit in itertools.product(MANEUVERS, (None, *DISTANCES_M), limits):
        yield instruct(navigate(maneuver, distance), limit / 3.6, "")


def build(texts: Iterable[str]) -> tokenizers.Tokenizer:
    """A tokenizer for texts; the same ones always make the same one."""
    made = tokenizers.Tokenizer(models.BPE())
    words = pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated")
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([words, bytewise])
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MOST_TOKENS,
        special_tokens=list(map(mark, VOCABULARY)),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return made


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    from tether.data.sources import STARTER

    parser = argparse.ArgumentParser(prog="python -m tether.data.tokenizer", description="Builds the tokenizer's file.")
    parser.add_argument("--data", default=STARTER, help="folder of a data set; the starter set by default")
    parser.add_argument("--out", type=pathlib.Path, default=FILE, help="default: %(default)s")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Builds the file."""
    from tether.data.sources import instructions

    options = parse(arguments)
    made = build((*sentences(), *instructions(options.data, "train")))
    made.save(str(options.out))
    print(f"{options.out}: {made.get_vocab_size()} tokens, {len(VOCABULARY)} of them phrases")


if __name__ == "__main__":
    main(sys.argv[1:])
