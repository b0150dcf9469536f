"""Text as token ids and back: a byte-level BPE that knows the data set's words and spells any others.

One vocabulary: first the phrases of the reasoning (`data.text.VOCABULARY`), one token each, then the 256 bytes, then
their merges. No text is ever encoded as a phrase's token: no text in a data set can end an instruction or be taken for
a decision.

`data/build_tokenizer.py` makes its file, data/tokenizer.json.
"""

import functools
import pathlib
from collections.abc import Iterable

import numpy as np
import tokenizers

from tether.data.errors import DataError, read_json
from tether.data.text import VOCABULARY

FILE = pathlib.Path(__file__).with_name("tokenizer.json")
LONGEST = 1000  # characters of one text


@functools.cache
def load(file: pathlib.Path = FILE) -> tokenizers.Tokenizer:
    """The tokenizer of a file. Raises: DataError for a missing file, or one of other phrases than `data.text` has."""
    if not file.is_file():
        reason = "expected a tokenizer (made by `python -m tether.data.build_tokenizer`), found none"
        raise DataError(reason, file=str(file))
    read_json(file)
    try:
        loaded = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises this type itself
        raise DataError(f"expected a tokenizer of the package tokenizers ({error})", file=str(file)) from error
    phrases = tuple(loaded.id_to_token(index) for index in range(len(VOCABULARY)))
    if phrases != tuple(map(mark, VOCABULARY)):
        raise DataError(f"expected the phrases {VOCABULARY} first, found {phrases}", "vocabulary", file=str(file))
    loaded.encode_special_tokens = True  # a phrase in a text is text
    return loaded


def mark(phrase: str) -> str:
    """The entry of a phrase in the file, which differs from the words that it is made of."""
    return phrase if phrase.startswith("<") else f"<{phrase}>"


def size() -> int:
    """The size of the vocabulary."""
    return load().get_vocab_size()


def tokens(text: str) -> list[int]:
    """The ids of a text. Raises: DataError for over `LONGEST` characters, or characters that UTF-8 cannot hold."""
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
