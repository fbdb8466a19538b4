"""What a drawn fighter looks like: the vocabulary of the demo pictures and a sampler over it."""

from __future__ import annotations

import random
from dataclasses import dataclass

Colour = tuple[int, int, int]

FRAMINGS = ("full body", "upper body", "portrait")
POSES = (
    "standing",
    "punching",
    "kicking",
    "guard stance",
    "crouching",
    "jumping",
    "victory pose",
    "bowing",
    "meditating",
    "arms crossed",
)
UPPER_BODY_POSES = ("standing", "punching", "guard stance", "victory pose", "arms crossed")
STYLE_POSE = "crane stance"
EXPRESSIONS = ("smiling", "angry", "calm", "shouting")

HAIR_STYLES = ("spiky hair", "long hair", "ponytail", "bob hair", "mohawk", "afro", "twin buns", "bald")
HAIR_COLOURS: dict[str, Colour] = {
    "black": (52, 46, 60),
    "brown": (132, 78, 40),
    "blonde": (250, 210, 80),
    "red": (214, 48, 44),
    "orange": (244, 134, 36),
    "blue": (48, 108, 224),
    "green": (52, 168, 74),
    "pink": (250, 130, 178),
}
SKINS: dict[str, Colour] = {
    "fair": (255, 222, 196),
    "tan": (228, 172, 124),
    "dark": (142, 92, 62),
}

OUTFITS = ("gi", "tank top", "robe", "armor", "tracksuit", "boxing shorts")
OUTFIT_COLOURS: dict[str, Colour] = {
    "white": (244, 242, 236),
    "black": (62, 58, 72),
    "red": (218, 50, 46),
    "blue": (50, 96, 214),
    "green": (56, 156, 78),
    "yellow": (246, 204, 54),
    "orange": (242, 128, 40),
    "pink": (246, 136, 182),
}
ACCENT_COLOURS: dict[str, Colour] = {
    "black": (48, 42, 54),
    "red": (206, 38, 40),
    "blue": (40, 84, 204),
    "white": (248, 246, 240),
}

SCENES = ("dojo", "sunset", "mountain", "night city", "bamboo forest", "arena")
PLAIN_COLOURS: dict[str, Colour] = {
    "grey": (188, 190, 198),
    "blue": (140, 190, 240),
    "green": (156, 212, 148),
    "yellow": (250, 226, 140),
    "pink": (250, 190, 206),
}
BACKGROUNDS = SCENES + tuple(f"plain {colour}" for colour in PLAIN_COLOURS)

# What only the example character wears; the base pictures never hold any of it.
CHARACTER_HAIR_COLOURS: dict[str, Colour] = {"silver": (226, 232, 244)}
CHARACTER_OUTFIT_COLOURS: dict[str, Colour] = {"purple": (124, 52, 172)}


@dataclass(frozen=True)
class Look:
    """Everything that determines a picture; `seed` is the small variation of place, size, limbs and scenery."""

    framing: str = "full body"
    pose: str = "standing"
    expression: str = "smiling"
    hair_style: str = "spiky hair"
    hair_colour: str = "black"
    skin: str = "fair"
    outfit: str = "gi"
    outfit_colour: str = "white"
    belt: str | None = None
    headband: str | None = None
    gloves: str | None = None
    background: str = "plain grey"
    seed: int = 0


def random_look(seed: int) -> Look:
    """The look of base picture number `seed`, drawn evenly from the vocabulary; portraits and busts get poses that show."""
    rng = random.Random(f"look-{seed}")
    framing = rng.choices(FRAMINGS, weights=(0.6, 0.22, 0.18))[0]
    outfit = rng.choice(OUTFITS)
    return Look(
        framing=framing,
        pose=rng.choice(poses_for(framing)),
        expression=rng.choice(EXPRESSIONS),
        hair_style=rng.choice(HAIR_STYLES),
        hair_colour=rng.choice(list(HAIR_COLOURS)),
        skin=rng.choice(list(SKINS)),
        outfit=outfit,
        outfit_colour=rng.choice(list(OUTFIT_COLOURS)),
        belt=rng.choice(list(ACCENT_COLOURS)) if outfit in ("gi", "robe") else None,
        headband=_sometimes(rng, 0.25, ACCENT_COLOURS),
        gloves=_sometimes(rng, 0.25, ACCENT_COLOURS),
        background=rng.choice(BACKGROUNDS),
        seed=seed,
    )


def poses_for(framing: str) -> tuple[str, ...]:
    """The poses that can be told apart in a framing."""
    return {"full body": POSES, "upper body": UPPER_BODY_POSES, "portrait": ("standing",)}[framing]


def _sometimes(rng: random.Random, chance: float, colours: dict[str, Colour]) -> str | None:
    return rng.choice(list(colours)) if rng.random() < chance else None
