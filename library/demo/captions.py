"""Tag captions for looks, and how they vary in training."""

from __future__ import annotations

import random
from collections.abc import Sequence

from library.demo.look import (
    ACCENT_COLOURS,
    BACKGROUNDS,
    EXPRESSIONS,
    FRAMINGS,
    HAIR_COLOURS,
    HAIR_STYLES,
    OUTFIT_COLOURS,
    OUTFITS,
    POSES,
    SKINS,
    Look,
)

CLASS_WORD = "fighter"
EMPTY_RATE, TAG_DROP_RATE, NAME_RATE = 0.1, 0.1, 0.3


def scene_tags(look: Look) -> list[str]:
    """Tags of what a picture shows of anybody: framing, pose where it can be seen, expression, background."""
    pose = [] if look.framing == "portrait" else [look.pose]
    return [look.framing, *pose, look.expression, f"{look.background} background"]


def look_tags(look: Look) -> list[str]:
    """Tags of a fighter's own look: hair, skin, outfit and what goes with it."""
    tags = ["bald"] if look.hair_style == "bald" else [look.hair_style, f"{look.hair_colour} hair"]
    tags += [f"{look.skin} skin", f"{look.outfit_colour} {look.outfit}"]
    worn = {"belt": look.belt, "headband": look.headband, "gloves": look.gloves}
    return tags + [f"{colour} {thing}" for thing, colour in worn.items() if colour is not None]


def caption(look: Look) -> str:
    """The full caption, in a fixed order."""
    framing, *scene = scene_tags(look)
    return ", ".join([CLASS_WORD, framing, *look_tags(look), *scene])


def training_caption(look: Look, names: Sequence[str], rng: random.Random) -> str:
    """A caption as training sees it: shuffled, some tags dropped, sometimes a meaningless name, sometimes empty.

    The names are words unrelated to the picture. They teach the model that an unknown word means nothing, so that
    a trigger word starts out neutral.
    """
    if rng.random() < EMPTY_RATE:
        return ""
    tags = [tag for tag in scene_tags(look) + look_tags(look) if rng.random() >= TAG_DROP_RATE]
    rng.shuffle(tags)
    name = [rng.choice(names)] if rng.random() < NAME_RATE else []
    return ", ".join([*name, CLASS_WORD, *tags])


def tag_groups() -> dict[str, tuple[str, ...]]:
    """The values of each thing a caption can tell, in the words of its tags."""
    worn = {thing: tuple(f"{colour} {thing}" for colour in ACCENT_COLOURS) for thing in ("belt", "headband", "gloves")}
    return {
        "framing": FRAMINGS,
        "pose": POSES,
        "expression": EXPRESSIONS,
        "hair style": HAIR_STYLES,
        "hair colour": tuple(f"{colour} hair" for colour in HAIR_COLOURS),
        "skin": tuple(f"{skin} skin" for skin in SKINS),
        "outfit": OUTFITS,
        "outfit colour": tuple(OUTFIT_COLOURS),
        "background": tuple(f"{background} background" for background in BACKGROUNDS),
        **worn,
    }


def told(text: str) -> list[int]:
    """What a caption tells, a number a group: 0 for nothing, else one more than the place of its value."""
    tags = text.split(", ")
    for outfit in OUTFITS:
        tags += [
            part for tag in tags if tag.endswith(f" {outfit}") for part in (outfit, tag.removesuffix(f" {outfit}"))
        ]
    return [
        next((place + 1 for place, value in enumerate(values) if value in tags), 0) for values in tag_groups().values()
    ]
