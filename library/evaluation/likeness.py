"""What a LoRA learned, and what else it changed, as numbers.

Each held-out picture has a caption that was not trained. Its caption is the prompt, with a fixed seed, once without and once
with the LoRA; the LoRA has learned something when its picture is the nearer one to the held-out picture. Then the trigger is
taken out of the prompt: whatever the LoRA changes now it should have left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

SIDE = 64
BLUR = 1.5
CENTRE = 0.2
"""Width of the Gaussian that weighs the centre, as a share of the side."""

Paint = Callable[[Sequence[str], bool], list[Image.Image]]
"""(prompts, with the LoRA) -> one picture a prompt; the i-th prompt has the i-th seed."""


def picture_distance(a: Image.Image, b: Image.Image) -> float:
    """Mean absolute difference of two pictures, in 0 .. 1, in which the centre counts most.

    Both are brought to 64x64 and blurred slightly, so the exact course of a line does not matter. A Gaussian weighs the
    centre, where the subject is, above the background, which is not what a character's LoRA is to learn.
    """
    difference_HW = np.abs(_seen(a) - _seen(b)).mean(axis=2)
    offset = (np.arange(SIDE) + 0.5) / SIDE - 0.5
    weight = np.exp(-0.5 * (offset / CENTRE) ** 2)
    return float(weight @ difference_HW @ weight / weight.sum() ** 2)


def _seen(picture: Image.Image) -> np.ndarray:
    """(64, 64, 3) in 0 .. 1."""
    small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small.filter(ImageFilter.GaussianBlur(BLUR)), dtype=np.float32) / 255


@dataclass(frozen=True)
class Learning:
    """One entry a held-out picture."""

    distances_without: list[float]
    """From the held-out picture to the base model's picture."""
    distances_with: list[float]
    """From the held-out picture to the picture with the LoRA."""
    changes_with_trigger: list[float]
    """Between the pictures without and with the LoRA."""
    changes_without_trigger: list[float]
    """The same for the prompt without the trigger word."""

    @property
    def nearer(self) -> float:
        """Share of pairs in which the LoRA's picture is nearer to the held-out one."""
        return float(np.mean(np.less(self.distances_with, self.distances_without)))

    @property
    def leak(self) -> float:
        """Change without the trigger as a share of the change with it; infinite where there is none with it."""
        called = float(np.mean(self.changes_with_trigger))
        return float(np.mean(self.changes_without_trigger)) / called if called else float("inf")

    def report(self) -> str:
        """The measures in words."""
        return (
            f"nearer to the held-out pictures: {self.nearer:.0%} of {len(self.distances_with)} pairs "
            f"(mean distance {np.mean(self.distances_without):.4f} without, {np.mean(self.distances_with):.4f} with the LoRA)\n"
            f"change with the trigger:         {np.mean(self.changes_with_trigger):.4f}\n"
            f"change without the trigger:      {np.mean(self.changes_without_trigger):.4f} "
            f"({self.leak:.0%} of the change with it)"
        )


def measure_learning(
    paint: Paint, prompts: Sequence[str], held_out: Sequence[Image.Image], without_trigger: Callable[[str], str]
) -> Learning:
    """Generate and compare.

    Args:
        prompts: the captions of `held_out`.
        without_trigger: the prompt with its trigger taken out.
    """
    plain = [without_trigger(prompt) for prompt in prompts]
    before, after = paint(prompts, False), paint(prompts, True)
    plain_before, plain_after = paint(plain, False), paint(plain, True)
    return Learning(
        distances_without=[picture_distance(a, b) for a, b in zip(held_out, before)],
        distances_with=[picture_distance(a, b) for a, b in zip(held_out, after)],
        changes_with_trigger=[picture_distance(a, b) for a, b in zip(before, after)],
        changes_without_trigger=[picture_distance(a, b) for a, b in zip(plain_before, plain_after)],
    )
