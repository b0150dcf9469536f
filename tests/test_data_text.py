"""Text in and out: the tokenizer's file, what it keeps apart, and the sentences made of phrases."""

import dataclasses
import json

import numpy as np
import pytest

from tests.raw_scenes import straight_road
from tether.data import build_tokenizer
from tether.data.errors import DataError
from tether.data.padding import pad_counted
from tether.data.raw import localize
from tether.data.scene import SceneSpec
from tether.data.text import TOKEN_ID, VOCABULARY, compose, instruct, navigate
from tether.data.tokenizer import FILE, decode, encode, load, mark, size, tokens

TEXTS = (
    "turn left in 30 m, speed limit 50 km/h",
    "Mind the crossing at São Paulo 🚸, 左折",
    "<pad><start> <stop> slow down, keep lane: red light 30 m",
    "  two  spaces,\ta tab\nand \x00 nothing",
    "",
)


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_comes_back_and_none_of_it_is_a_phrase(text):
    ids = tokens(text)
    assert decode(ids) == text
    assert all(len(VOCABULARY) <= index < size() for index in ids)


def test_phrases_are_single_tokens_in_the_order_of_the_vocabulary():
    assert [load().token_to_id(mark(phrase)) for phrase in VOCABULARY] == list(range(len(VOCABULARY)))
    assert TOKEN_ID["<pad>"] == 0 and len(set(VOCABULARY)) == len(VOCABULARY)


def test_a_known_word_is_one_token():
    assert len(tokens("turn right in 100 m, speed limit 130 km/h")) == SceneSpec.text
    assert len(tokens("follow the road, speed limit 5 km/h")) == 8


def test_the_file_is_what_its_command_builds(tmp_path, capsys):
    build_tokenizer.main(["--out", str(tmp_path / "again.json")])
    again, shipped = (json.loads(file.read_text("utf-8")) for file in (tmp_path / "again.json", FILE))
    assert again["model"]["vocab"] == shipped["model"]["vocab"]
    assert again["model"]["merges"] == shipped["model"]["merges"]
    assert again["added_tokens"] == shipped["added_tokens"]
    assert f"{size()} tokens" in capsys.readouterr().out


def test_texts_of_another_data_set_give_other_tokens():
    made = build_tokenizer.build(["mind the tram"] * 9)
    assert len(made.encode("mind the tram").ids) == 3 < len(tokens("mind the tram"))
    assert [made.token_to_id(mark(phrase)) for phrase in VOCABULARY] == list(range(len(VOCABULARY)))


def test_encode_pads_and_cuts():
    ids = tokens("turn left now")
    np.testing.assert_array_equal(encode("turn left now", 5), [*ids, 0, 0])
    np.testing.assert_array_equal(encode("turn left now", 2), ids[:2])
    assert encode("", 3).tolist() == [0, 0, 0] and encode("", 3).dtype == np.int32


@pytest.mark.parametrize(
    ("text", "reason"),
    [("x" * 1001, "field instruction: expected at most 1000 characters, found 1001"), ("\ud800", "UTF-8 can hold")],
)
def test_hostile_text_is_refused_with_a_message(text, reason):
    with pytest.raises(DataError, match=reason):
        tokens(text)


def test_a_missing_or_foreign_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.json: expected a tokenizer .*found none"):
        load(tmp_path / "gone.json")
    (tmp_path / "torn.json").write_text("{")
    with pytest.raises(DataError, match=r"torn\.json: expected JSON"):
        load(tmp_path / "torn.json")
    (tmp_path / "none.json").write_text('{"version": "1.0", "model": 3}')
    with pytest.raises(DataError, match=r"none\.json: expected a tokenizer of the package tokenizers"):
        load(tmp_path / "none.json")
    other = FILE.read_text("utf-8").replace("<keep speed>", "<hold speed>")
    (tmp_path / "other.json").write_text(other, "utf-8")
    with pytest.raises(DataError, match=r"other\.json, field vocabulary: expected the phrases"):
        load(tmp_path / "other.json")


def test_an_instruction_is_composed():
    assert instruct(navigate("turn left", 31.0), 13.89, "") == "turn left in 30 m, speed limit 50 km/h"
    assert instruct(navigate("turn right", 1.0), 0.0, " school\n ahead ") == "turn right now, school ahead"
    assert instruct(navigate("follow the road"), 11.18, "") == "follow the road, speed limit 40 km/h"


def test_a_note_follows_the_instruction_and_what_is_cut_is_counted():
    raw = dataclasses.replace(straight_road(), note="speed limit")
    instruction = pad_counted(localize(raw), SceneSpec())[0].instruction
    assert instruction.startswith("follow the road") and instruction.endswith(", speed limit")
    long = dataclasses.replace(raw, note="speed limit " * 4)
    record, dropped = pad_counted(localize(long), SceneSpec())
    assert dropped.tokens == len(tokens(record.instruction)) - SceneSpec.text > 0
    assert record.instruction.startswith(decode(record.scene.instruction))
    assert pad_counted(localize(long), SceneSpec(text=32))[1].tokens == 0


@pytest.mark.parametrize(
    ("phrases", "sentence"),
    [
        (("stop", "keep lane", "red light", "30 m"), "stop and keep the lane: the light 30 m ahead is red"),
        (("wait", "keep lane", "lead vehicle", "0 m"), "wait and keep the lane: a vehicle is just ahead"),
        (
            ("speed up", "keep lane", "lead vehicle", "15 m"),
            "speed up and keep the lane: the vehicle 15 m ahead moves on",
        ),
        (("slow down", "keep lane", "unseen cause", "0 m"), "slow down and keep the lane: the cause is not in sight"),
        (("speed up", "steer left", "route", "0 m"), "speed up and steer left: the route leads there"),
        (("keep speed", "follow the curve", "free road", "0 m"), "keep speed and follow the curve: the road is free"),
    ],
)
def test_a_chain_of_causation_reads_as_a_sentence(phrases, sentence):
    assert compose(*phrases) == sentence
