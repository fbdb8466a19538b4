"""Which combinations of a sheet's entries the pictures show, and from which seeds.

Picture number n is a function of the sheet and n: the first ten of twenty-five are the ten of ten.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from library.core.randomness import derived_seed, python_random
from library.generation.sheet import CharacterSheet, Choice
from library.generation.table import MOST_SEED
from library.generation.templates import filled
from library.inference.requests import SampleRequest

Marks = tuple[tuple[str, str], ...]
"""Entries that stand together in a picture: axis and name of each."""

DRAWS = 64

FIRST_AXES = ("shot", "pose")
"""Chosen first: a shot may leave only some poses to choose from."""


@dataclass(frozen=True)
class Canvas:
    """What a model is made to paint on."""

    native_resolution: int
    """Side in pixels of its square pictures."""
    stride: int
    """Sizes are multiples of it."""


@dataclass(frozen=True)
class PlannedPicture:
    """A picture that the sheet asks for."""

    number: int
    """From 1."""
    attempt: int
    """0, and one more each time that it is to be made anew from another seed."""
    choices: Mapping[str, Choice]
    """Axis -> what of it the picture shows. A shot that leaves no pose has none."""
    prompt: str
    caption: str
    seed: int

    def request(self, sheet: CharacterSheet, canvas: Canvas) -> SampleRequest:
        """What the model is asked for."""
        width, height = _size(sheet, self.choices["shot"], canvas)
        return SampleRequest(
            self.prompt, sheet.negative, width, height, self.seed, sheet.steps, sheet.scale, sheet.sampler
        )


def plan(sheet: CharacterSheet, count: int, attempts: Mapping[int, int] | None = None) -> list[PlannedPicture]:
    """The first `count` pictures of a sheet.

    Args:
        attempts: number -> attempt, where that is not 0.
    """
    return [
        _planned(sheet, number, (attempts or {}).get(number, 0), choices)
        for number, choices in enumerate(combinations_of(sheet, count), start=1)
    ]


def combinations_of(sheet: CharacterSheet, count: int) -> list[dict[str, Choice]]:
    """What each of `count` pictures shows: every entry as often as its weight asks, and pairs of entries as evenly as that allows.

    Each picture draws among the entries that have had the least of their share, a few times over, and takes the draw that has been
    shown least, and of those the one whose pairs have.
    """
    axes = [axis for axis in FIRST_AXES if axis in sheet.axes] + [axis for axis in sheet.axes if axis not in FIRST_AXES]
    shown: Counter[Marks] = Counter()
    made = []
    for index in range(count):
        rng = python_random(sheet.seeds[0], "combination", index)
        draws = [_draw(sheet, axes, shown, rng) for _ in range(DRAWS)]
        chosen = min(draws, key=lambda draw: (shown[_marks(draw)], _met(draw, shown)))
        marks = _marks(chosen)
        shown.update({*((mark,) for mark in marks), *combinations(marks, 2), marks})
        made.append(chosen)
    return made


def coverage(sheet: CharacterSheet, pictures: Sequence[Mapping[str, str]]) -> str:
    """A table of how often each entry is shown.

    Args:
        pictures: for each of them axis -> name of its entry.
    """
    lines = []
    for axis, entries in sheet.axes.items():
        counts = Counter(names[axis] for names in pictures if axis in names)
        told = [f"{entry.name} {counts[entry.name]}" for entry in sorted(entries, key=lambda each: -counts[each.name])]
        lines.append(f"  {axis:12} {' · '.join(told)}")
    return "\n".join(lines)


def _draw(sheet: CharacterSheet, axes: Sequence[str], shown: Counter[Marks], rng: random.Random) -> dict[str, Choice]:
    """An entry of each axis, by lot among those that have had the least of their share (Sainte-Lague's divisors)."""
    chosen: dict[str, Choice] = {}
    for axis in axes:
        poses = chosen["shot"].poses if axis == "pose" else None
        fitting = [entry for entry in sheet.axes[axis] if poses is None or entry.name in poses]
        if fitting:
            shares = [(shown[((axis, entry.name),)] + 0.5) / entry.weight for entry in fitting]
            least = min(shares)
            chosen[axis] = rng.choice([entry for entry, share in zip(fitting, shares) if share == least])
    return chosen


def _marks(chosen: Mapping[str, Choice]) -> Marks:
    return tuple((axis, choice.name) for axis, choice in chosen.items())


def _met(chosen: Mapping[str, Choice], shown: Counter[Marks]) -> int:
    """How often the entries of a draw have met, in pairs; often for one pair counts more than now and then for many."""
    return sum(shown[pair] ** 2 for pair in combinations(_marks(chosen), 2))


def _planned(sheet: CharacterSheet, number: int, attempt: int, choices: Mapping[str, Choice]) -> PlannedPicture:
    words = {
        "name": sheet.name,
        "trigger": sheet.trigger,
        "class_word": sheet.class_word,
        "description": sheet.description,
    }
    unused = dict.fromkeys(("look", "pose", "shot", "expression", "light", "background", "style", *sheet.axes), "")
    prompt = filled(sheet.prompt, {**unused, **words, **{axis: choice.prompt for axis, choice in choices.items()}})
    caption = filled(sheet.caption, {**unused, **words, **{axis: choice.caption for axis, choice in choices.items()}})
    return PlannedPicture(number, attempt, choices, prompt, caption, _seed(sheet, number, attempt))


def _seed(sheet: CharacterSheet, number: int, attempt: int) -> int:
    if len(sheet.seeds) > 1 and attempt == 0:
        return sheet.seeds[(number - 1) % len(sheet.seeds)]
    return derived_seed(sheet.seeds[0], "generated picture", number, attempt) & MOST_SEED


def _size(sheet: CharacterSheet, shot: Choice, canvas: Canvas) -> tuple[int, int]:
    """Width and height in pixels: the shot's own, the sheet's, or what the shot's aspect makes of the model's own area."""
    native = canvas.native_resolution
    if shot.size or not shot.aspect:
        width, height = shot.size or (sheet.width or native, sheet.height or native)
        return _rounded(width, canvas.stride), _rounded(height, canvas.stride)
    area = (sheet.width or native) * (sheet.height or native)
    across, down = shot.aspect
    step = max(canvas.stride, min(64, native // 8) // canvas.stride * canvas.stride)
    width, height = (area * across / down) ** 0.5, (area * down / across) ** 0.5
    return max(step, round(width / step) * step), max(step, round(height / step) * step)


def _rounded(side: int, stride: int) -> int:
    return max(stride, side - side % stride)
