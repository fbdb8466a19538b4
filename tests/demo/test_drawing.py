"""Drawing, looks and the example data sets."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from library.demo.drawing import draw
from library.demo.examples import HELD_OUT_COUNT, TRAINING_COUNT, examples
from library.demo.look import (
    BACKGROUNDS,
    FRAMINGS,
    HAIR_STYLES,
    OUTFITS,
    POSES,
    STYLE_POSE,
    UPPER_BODY_POSES,
    Look,
    random_look,
)

DEMO = Path(__file__).parents[2] / "demo"


def _pixels(look: Look, size: int = 64) -> np.ndarray:
    return np.asarray(draw(look, size), dtype=float)


def test_the_same_look_always_gives_the_same_bytes():
    look = random_look(11)
    assert draw(look).tobytes() == draw(look).tobytes()


@pytest.mark.parametrize("size", [64, 128, 256])
def test_every_size_shows_the_same_picture(size):
    look = random_look(5)
    small = np.asarray(draw(look, size).reduce(size // 32), dtype=float)
    assert np.abs(small - np.asarray(draw(look, 64).reduce(2), dtype=float)).mean() < 6


@pytest.mark.parametrize(
    ("attribute", "values"),
    [
        ("framing", FRAMINGS),
        ("pose", (*POSES, STYLE_POSE)),
        ("hair_style", HAIR_STYLES),
        ("outfit", (*OUTFITS, "coat")),
        ("background", BACKGROUNDS),
        ("belt", (None, "red", "blue")),
        ("headband", (None, "red", "white")),
        ("gloves", (None, "red", "black")),
    ],
)
def test_each_value_of_an_attribute_looks_different(attribute, values):
    pictures = [_pixels(replace(Look(seed=1), **{attribute: value})) for value in values]
    for index, picture in enumerate(pictures):
        for other in pictures[:index]:
            assert np.abs(picture - other).max() > 40


def test_random_looks_cover_the_vocabulary_and_never_the_examples():
    looks = [random_look(seed) for seed in range(1500)]
    assert {look.pose for look in looks} == set(POSES)
    assert {look.outfit for look in looks} == set(OUTFITS)
    assert {look.background for look in looks} == set(BACKGROUNDS)
    assert "silver" not in {look.hair_colour for look in looks}
    assert "purple" not in {look.outfit_colour for look in looks}
    assert all(look.pose in UPPER_BODY_POSES for look in looks if look.framing == "upper body")


def test_example_files_are_what_the_code_draws():
    listed = list(examples())
    assert len(listed) == 2 * (TRAINING_COUNT + HELD_OUT_COUNT)
    for example in listed:
        with Image.open(DEMO / example.path) as stored:
            drawn = draw(example.look, stored.width)
            difference = np.abs(np.asarray(stored, dtype=float) - np.asarray(drawn, dtype=float))
        # Another version of Pillow may place an edge half a subpixel elsewhere.
        assert difference.mean() < 0.5, example.path
        assert (DEMO / example.path).with_suffix(".txt").read_text(encoding="utf-8") == example.caption + "\n"


def test_no_held_out_scene_of_the_character_is_in_training():
    scenes = {True: set(), False: set()}
    for example in examples():
        if example.path.stem.startswith("alexander"):
            look = example.look
            scenes[example.path.parts[0] == "training_data"].add((look.framing, look.pose, look.background))
    assert len(scenes[True]) == TRAINING_COUNT
    assert len(scenes[False]) == HELD_OUT_COUNT
    assert not scenes[True] & scenes[False]


def test_the_character_keeps_his_look_and_the_style_its_stance():
    listed = list(examples())
    kept = {field.name for field in fields(Look)} - {"framing", "pose", "expression", "background", "seed"}
    alexander = {tuple(getattr(e.look, name) for name in sorted(kept)) for e in listed if "alexander" in e.path.stem}
    assert len(alexander) == 1
    assert {e.look.pose for e in listed if "kungfustyle" in e.path.stem} == {STYLE_POSE}
