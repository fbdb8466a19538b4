"""A character as its sheet tells it: what never changes, and what is to be varied from picture to picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

AXES = {
    "looks": "look",
    "poses": "pose",
    "shots": "shot",
    "expressions": "expression",
    "light": "light",
    "backgrounds": "background",
    "styles": "style",
}
"""Lists of a sheet -> the field that stands for one of their entries in templates. Further ones are under [axes]."""

CAPTION = "{trigger}, {class_word}, {shot}, {look}, {pose}, {expression}, {light}, {background}, {style}"
"""Names what should stay changeable; what it leaves out, the description, goes into the trigger word."""

PROMPT = "{class_word}, {shot}, {description}, {look}, {pose}, {expression}, {light}, {background}, {style}"
"""Without the trigger word, which means nothing to the base model."""


@dataclass(frozen=True)
class Choice:
    """An entry of an axis."""

    name: str
    """What it is called in tables, on the contact sheet, and by the shots that go with it."""
    prompt: str
    caption: str
    weight: float = 1.0
    """How often it is taken, measured by the others of its axis."""
    poses: tuple[str, ...] | None = None
    """Of a shot: the poses that it can show; None: all of them."""
    aspect: tuple[int, int] | None = None
    """Of a shot: width to height, at the area that the model was made for."""
    size: tuple[int, int] | None = None
    """Of a shot: width and height in pixels."""


@dataclass(frozen=True)
class CharacterSheet:
    """Everything that decides which pictures are made, but for the model."""

    name: str
    trigger: str
    class_word: str
    description: str
    axes: Mapping[str, tuple[Choice, ...]]
    """Field of the templates -> its entries; axes without entries are left out."""
    negative: str
    seeds: tuple[int, ...]
    """One: what all seeds are drawn from. Several: the seeds of the pictures, over and over."""
    width: int | None
    """None: what the model was made for."""
    height: int | None
    steps: int
    scale: float
    sampler: str
    num_repeats: int
    prompt: str
    caption: str
    table: Mapping[str, Any]
    """As it was read, to be noted beside the pictures."""

    @property
    def folder_name(self) -> str:
        """`10_alexander fighter`: how trainers want the folder of pictures to be called."""
        return f"{self.num_repeats}_{self.trigger} {self.class_word}".strip()
