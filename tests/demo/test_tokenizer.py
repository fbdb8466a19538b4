"""The shipped vocabulary is CLIP's: it agrees with an independent tokenizer."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import instant_clip_tokenizer
import pytest
from transformers import CLIPTokenizer

from library.demo.captions import caption
from library.demo.look import random_look
from library.demo.text import RESERVED_NAMES, name_words
from library.demo.tokenizer import write_tokenizer

FOLDER = Path(__file__).parents[2] / "demo" / "model" / "tokenizer"
TEXTS = (
    "alexander, fighter, full body, punching",
    "kungfustyle",
    "a photo of the Mona Lisa, 4k (masterpiece:1.2) -- don't!",
    "Ünïcödé çase 日本語 😀!!",
    "42,000 dogs' tails   and\ttabs",
    "",
)


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(FOLDER)


def test_it_is_clips_vocabulary(tokenizer):
    assert len(tokenizer) == 49408
    assert tokenizer("a fighter").input_ids == [49406, 320, 6438, 49407]
    assert tokenizer.model_max_length == 77
    assert tokenizer.pad_token_id == 49407


def test_it_agrees_with_an_independent_tokenizer(tokenizer):
    other = instant_clip_tokenizer.Tokenizer()
    rng = random.Random(0)
    vocabulary = sorted(tokenizer.get_vocab())[:-2]
    mixed = [" ".join(token.replace("</w>", "") for token in rng.sample(vocabulary, 8)) for _ in range(300)]
    captions = [caption(random_look(seed)) for seed in range(50)]
    for text in (*TEXTS, *mixed, *captions):
        assert tokenizer(text).input_ids[1:-1] == other.encode(text), text


def test_names_share_no_token_with_captions_or_triggers(tokenizer):
    looks = [random_look(seed) for seed in range(2000)]
    names = name_words(tokenizer, looks)
    assert len(names) > 20_000
    assert not set(names) & {"fighter", "red", "hair", "dojo", *RESERVED_NAMES}


def test_the_files_can_be_written_again_from_the_merges(tmp_path):
    merges = (FOLDER / "merges.txt").read_text(encoding="utf-8").split("\n")[1:]
    source = tmp_path / "merges.txt.gz"
    source.write_bytes(gzip.compress("\n".join(["header", *merges]).encode("utf-8")))
    write_tokenizer(source, tmp_path / "tokenizer")
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / "tokenizer" / name).read_bytes() == (FOLDER / name).read_bytes()
