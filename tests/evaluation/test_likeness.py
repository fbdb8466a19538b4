"""The measure of what a LoRA learned, on pictures whose distances are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from library.evaluation.likeness import Learning, measure_learning, picture_distance


def grey(level: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, (level, level, level))


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (96, 80, 3), dtype=np.uint8))


def square(left: int) -> Image.Image:
    """A white square of 16 pixels on black."""
    picture = grey(0)
    picture.paste((255, 255, 255), (left, 24, left + 16, 40))
    return picture


def test_a_picture_is_no_distance_from_itself() -> None:
    assert picture_distance(noise(0), noise(0)) == 0


def test_there_and_back_is_equally_far() -> None:
    assert picture_distance(noise(0), noise(1)) == picture_distance(noise(1), noise(0)) > 0


@pytest.mark.parametrize(("one", "other"), [(0, 255), (10, 60), (200, 100)])
def test_plain_pictures_are_as_far_apart_as_their_levels(one: int, other: int) -> None:
    assert picture_distance(grey(one), grey(other)) == pytest.approx(abs(one - other) / 255, abs=1e-6)


def test_size_and_mode_do_not_matter() -> None:
    assert picture_distance(grey(80), grey(80, (200, 100))) == 0
    assert picture_distance(grey(80), grey(80).convert("L")) == 0
    assert picture_distance(grey(80), grey(80).convert("RGBA")) == 0


def test_it_grows_with_the_displacement() -> None:
    distances = [picture_distance(square(8), square(8 + shift)) for shift in (0, 1, 4, 8, 16)]
    assert distances == sorted(distances)
    assert len(set(distances)) == len(distances)
    assert distances[1] < distances[-1] / 8, "the exact course of a line hardly counts"


HELD_OUT = [grey(100), grey(100), grey(100), grey(100)]
PROMPTS = [f"hero, man, {index}" for index in range(4)]


def painter(changes: dict[bool, Sequence[int]]):
    """Paints grey 50; with the LoRA it adds `changes[has trigger][i]` to the i-th picture."""

    def paint(prompts: Sequence[str], with_lora: bool) -> list[Image.Image]:
        added = [changes["hero" in prompt][index] if with_lora else 0 for index, prompt in enumerate(prompts)]
        return [grey(50 + more) for more in added]

    return paint


def measured(with_trigger: Sequence[int], without_trigger: Sequence[int]) -> Learning:
    paint = painter({True: with_trigger, False: without_trigger})
    return measure_learning(paint, PROMPTS, HELD_OUT, lambda prompt: prompt.replace("hero, ", ""))


def test_nearer_counts_the_pairs_in_which_the_lora_helps() -> None:
    learning = measured([40, 20, -10, 150], [0, 0, 0, 0])
    assert learning.distances_without == pytest.approx([50 / 255] * 4)
    assert learning.distances_with == pytest.approx([10 / 255, 30 / 255, 60 / 255, 100 / 255])
    assert learning.nearer == 0.5


def test_leak_is_the_share_of_the_change_that_needs_no_trigger() -> None:
    learning = measured([40, 40, 40, 40], [10, 10, 0, 0])
    assert learning.changes_with_trigger == pytest.approx([40 / 255] * 4)
    assert learning.changes_without_trigger == pytest.approx([10 / 255, 10 / 255, 0, 0])
    assert learning.leak == pytest.approx(0.125)


def test_a_lora_that_does_nothing_is_not_nearer() -> None:
    assert measured([0] * 4, [0] * 4).nearer == 0


def test_the_report_in_words() -> None:
    told = measured([40, 40, 40, -10], [20, 20, 20, 20]).report()
    assert "75% of 4 pairs" in told
    assert f"mean distance {50 / 255:.4f} without, {22.5 / 255:.4f} with" in told
    assert f"{20 / 255:.4f} ({20 / 32.5:.0%} of the change with it)" in told
