from __future__ import annotations

from collections import Counter
from itertools import product

import pytest

from library.generation.plan import Canvas, coverage, plan


def names(pictures, axis: str) -> list[str]:
    return [picture.choices[axis].name for picture in pictures if axis in picture.choices]


def test_fewer_pictures_are_the_first_of_more(sheet) -> None:
    assert plan(sheet(), 40)[:10] == plan(sheet(), 10)
    assert plan(sheet(), 10) != plan(sheet(seeds=6), 10)


def test_every_entry_is_shown_as_often_as_its_weight_asks(sheet) -> None:
    for count in (1, 7, 25, 60):
        pictures = plan(sheet(), count)
        for axis in ("look", "expression", "weather"):
            counts = Counter(names(pictures, axis))
            choices = [choice.name for choice in sheet().axes[axis]]
            assert max(counts[name] for name in choices) - min(counts[name] for name in choices) <= 1
    shots = Counter(names(plan(sheet(), 60), "shot"))
    assert shots == {"full body": 30, "portrait": 15, "upper body": 15}
    poses = Counter(names(plan(sheet(), 60), "pose"))
    assert sum(poses.values()) == 45 and max(poses.values()) - min(poses.values()) <= 1


def test_a_shot_shows_only_poses_that_go_with_it(sheet) -> None:
    for picture in plan(sheet(), 60):
        shot = picture.choices["shot"].name
        assert ("pose" in picture.choices) == (shot != "portrait")
        if shot == "upper body":
            assert picture.choices["pose"].name in ("standing", "sitting")


def test_pairs_are_met_evenly(sheet) -> None:
    free = sheet(shots=["a", "b", "c"], poses=["p", "q", "r", "s"], looks=["x", "y"], expressions=None, axes=None)
    pictures = plan(free, 24)
    for one, other in (("shot", "pose"), ("shot", "look"), ("pose", "look")):
        pairs = Counter(zip(names(pictures, one), names(pictures, other)))
        every = list(product({*names(pictures, one)}, {*names(pictures, other)}))
        share = 24 / len(every)
        assert all(abs(pairs[pair] - share) <= 1 for pair in every)
    assert len({tuple(choice.name for choice in picture.choices.values()) for picture in pictures}) >= 20


def test_no_combination_is_shown_twice_where_there_are_many(sheet) -> None:
    pictures = plan(sheet(shots=["a", "b", "c"]), 30)
    assert len({tuple(choice.name for choice in picture.choices.values()) for picture in pictures}) == 30, "of 144"


def test_prompts_tell_the_character_and_captions_what_may_change(sheet) -> None:
    for picture in plan(sheet(), 12):
        assert picture.prompt.startswith("woman, ") and ", red hair, scar, " in picture.prompt
        assert "annx" not in picture.prompt and "scar" not in picture.caption
        assert picture.caption.startswith(f"annx, woman, {picture.choices['shot'].name}, ")
        assert picture.caption.endswith(picture.choices["weather"].name), "an axis of the sheet's own"
        if picture.choices["look"].name == "armor":
            assert "shining steel armor" in picture.prompt and "steel" not in picture.caption
    own = plan(sheet(prompt="photo of {name}, {pose}", caption="{trigger} {pose}"), 3)
    assert all(picture.prompt.startswith("photo of anna") and picture.caption.startswith("annx") for picture in own)


def test_seeds_are_a_function_of_number_and_attempt(sheet) -> None:
    first, again = plan(sheet(), 9), plan(sheet(), 9, {3: 1})
    assert len({picture.seed for picture in first}) == 9
    assert [one.number for one, other in zip(first, again) if one != other] == [3]
    assert again[2].choices == first[2].choices and again[2].seed != first[2].seed
    assert max(picture.seed for picture in plan(sheet(), 200)) < 2**32
    listed = plan(sheet(seeds=[8, 9]), 5, {2: 1})
    assert [picture.seed for picture in listed if picture.number != 2] == [8, 8, 9, 8]
    assert listed[1].seed not in (8, 9)


@pytest.mark.parametrize(
    ("native", "shot", "size"),
    [
        (512, "portrait", (512, 512)),
        (512, "full body", (448, 640)),
        (1024, "full body", (832, 1280)),
        (64, "full body", (56, 80)),
        (512, "upper body", (40, 24)),
    ],
)
def test_sizes_suit_the_model(sheet, native: int, shot: str, size: tuple[int, int]) -> None:
    picture = next(each for each in plan(sheet(), 9) if each.choices["shot"].name == shot)
    request = picture.request(sheet(), Canvas(native, 8))
    assert (request.width, request.height) == size
    assert (request.steps, request.negative_prompt, request.seed) == (2, "blurry", picture.seed)


def test_a_size_of_the_sheet_is_that_of_every_shot_without_one(sheet) -> None:
    wide = sheet(width=96, height=70, shots=["full", {"name": "tall", "aspect": "1:2"}])
    sizes = {each.choices["shot"].name: each.request(wide, Canvas(512, 8)) for each in plan(wide, 4)}
    assert (sizes["full"].width, sizes["full"].height) == (96, 64)
    assert (sizes["tall"].width, sizes["tall"].height) == (64, 128)


def test_coverage_counts_what_is_never_shown_too(sheet) -> None:
    told = coverage(sheet(), [{"pose": "running", "shot": "portrait"}, {"pose": "running"}])
    assert "pose         running 2 · standing 0 · sitting 0 · jumping 0" in told
    assert "portrait 1" in told and "rain 0" in told
