"""Command that builds data/tokenizer.json again, from the phrases and from the starter set's text:

python -m tether.data.build_tokenizer [--data DIR]
"""

import argparse
import itertools
import pathlib
import sys
from collections.abc import Iterable, Iterator

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from tether.data.command_line import Parser
from tether.data.instruction import sampled_route
from tether.data.scene import SceneSpec
from tether.data.sources import STARTER, open_split
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

MOST_TOKENS = 1024
FASTEST_KMH = 130
WORDS = r" ?[\p{L}/]+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"  # merges stay within these: `km/h` is one


def sentences() -> Iterator[str]:
    """Every sentence of the reasoning, and every instruction without free text."""
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
    """The options: the data set whose text is learned, and the file to write."""
    parser = Parser(prog="python -m tether.data.build_tokenizer", description="Builds the tokenizer's file.")
    parser.add_argument("--data", default=STARTER, help="folder of a data set; the starter set by default")
    parser.add_argument("--out", type=pathlib.Path, default=FILE, help="default: %(default)s")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Builds the file."""
    options = parse(arguments)
    source, spec = open_split(options.data, "train"), SceneSpec()
    instructions = (sampled_route(source.scene(index), spec).instruction for index in range(len(source)))
    made = build((*sentences(), *instructions))
    made.save(str(options.out))
    print(f"{options.out}: {made.get_vocab_size()} tokens, {len(VOCABULARY)} of them phrases")


if __name__ == "__main__":
    main(sys.argv[1:])
