"""Command that builds data/tokenizer.json again, from the phrases and from the instructions of scenes:

python -m tether.data.build_tokenizer [--data DIR]

Trained policies refer to tokens by number. So the instructions are those of `tokenizer_texts.json`, with the number of
scenes that have each: they are the starter set's as it was when the file was first built, and stay when that set grows.
"""

import argparse
import itertools
import pathlib
import sys
from collections.abc import Iterable, Iterator

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from tether.data.command_line import Parser
from tether.data.errors import read_json
from tether.data.instruction import sampled_route
from tether.data.scene import SceneSpec
from tether.data.sources import open_split
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
from tether.data.tokenizer import FILE, mark

TEXTS = FILE.with_name("tokenizer_texts.json")
MOST_TOKENS = 1024
FASTEST_KMH = 130
WORDS = r" ?[\p{L}/]+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"  # merges stay within these: `km/h` is one


def sentences() -> Iterator[str]:
    """Every sentence of the reasoning, and every instruction without free text."""
    yield from itertools.starmap(compose, itertools.product(LONGITUDINAL, LATERAL, CAUSES, DISTANCES))
    limits = range(0, FASTEST_KMH + 1, KMH_STEP)
    for maneuver, distance, limit in itertools.product(MANEUVERS, (None, *DISTANCES_M), limits):
        yield instruct(navigate(maneuver, distance), limit / 3.6, "")


def kept_texts() -> Iterator[str]:
    """The instructions that the shipped tokenizer was built from, each as often as it occurred."""
    for text, count in read_json(TEXTS).items():
        yield from itertools.repeat(text, count)


def instructions(directory: str) -> Iterator[str]:
    """The instructions of a data set's training scenes. Raises: DataError without that split."""
    source, spec = open_split(directory, "train"), SceneSpec()
    return (sampled_route(source.scene(index), spec).instruction for index in range(len(source)))


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
    """The options: the data set whose text is learned, and the file to write."""
    parser = Parser(prog="python -m tether.data.build_tokenizer", description="Builds the tokenizer's file.")
    usual = f"folder of a data set whose instructions are learned; those in {TEXTS.name} by default"
    parser.add_argument("--data", help=usual)
    parser.add_argument("--out", type=pathlib.Path, default=FILE, help="default: %(default)s")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Builds the file."""
    options = parse(arguments)
    made = build((*sentences(), *(kept_texts() if options.data is None else instructions(options.data))))
    made.save(str(options.out))
    print(f"{options.out}: {made.get_vocab_size()} tokens, {len(VOCABULARY)} of them phrases")


if __name__ == "__main__":
    main(sys.argv[1:])
