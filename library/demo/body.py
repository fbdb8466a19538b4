"""Bodies in their outfits: torso, arms, legs, skirts and trims over a skeleton."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from library.demo.brush import Brush, Points, curve, direction, disc, hull, limb, shade
from library.demo.look import ACCENT_COLOURS, Colour, Look
from library.demo.skeleton import Limb, Skeleton

ARM, HAND, LEG = 0.04, 0.05, 0.046
GOLD: Colour = (250, 204, 66)
DARK: Colour = (66, 62, 78)
SHOE: Colour = (58, 46, 54)
WHITE: Colour = (250, 248, 242)


@dataclass(frozen=True)
class Outfit:
    """Colours of the parts of an outfit, and which of them it has. Sleeves: upper arm and forearm; trousers: thigh and shin."""

    chest: Colour
    sleeves: tuple[Colour, Colour]
    trousers: tuple[Colour, Colour]
    shoes: Colour
    flare: float = 0.0
    skirt: bool = False


def outfit_of(look: Look, cloth: Colour, skin: Colour) -> Outfit:
    """The colours an outfit lays over the body."""
    return {
        "gi": Outfit(cloth, (cloth, cloth), (cloth, cloth), skin, flare=0.012),
        "tank top": Outfit(cloth, (skin, skin), (DARK, DARK), SHOE),
        "robe": Outfit(cloth, (cloth, cloth), (cloth, cloth), SHOE, flare=0.03, skirt=True),
        "armor": Outfit(cloth, (DARK, cloth), (DARK, cloth), cloth),
        "tracksuit": Outfit(cloth, (cloth, cloth), (cloth, cloth), WHITE),
        "boxing shorts": Outfit(skin, (skin, skin), (cloth, skin), SHOE, flare=0.016),
        "coat": Outfit(cloth, (cloth, cloth), (DARK, DARK), shade(GOLD, 0.8), flare=0.012),
    }[look.outfit]


def draw_legs(brush: Brush, bones: Skeleton, outfit: Outfit, look: Look, cloth: Colour) -> None:
    if look.outfit == "coat":
        _draw_coat_tails(brush, bones, cloth)
    for leg in bones.legs:
        _draw_leg(brush, leg, outfit, look)
    if outfit.skirt:
        ends = [point for leg in bones.legs for point in (leg.joint, leg.tip)]
        hips = [bones.on_torso(x, 0.1) for x in (-0.075, 0.075)]
        brush.paint([hull(np.concatenate([disc(p, 0.054, corners=14) for p in [*ends, *hips]]))], cloth)
        brush.stroke(np.array([bones.on_torso(0.01, 0.0), np.mean(ends, axis=0)]), shade(cloth, 0.72), 0.012)


def _draw_leg(brush: Brush, leg: Limb, outfit: Outfit, look: Look) -> None:
    thigh, shin = outfit.trousers
    foot = leg.tip + 0.02 * direction(_heading(leg.joint, leg.tip)) + (0.012, 0.0)
    brush.paint([disc(foot, 0.062, 0.04, turn=-_heading(leg.joint, leg.tip) * 0.6)], outfit.shoes)
    upper = limb(leg.root, leg.joint, LEG + 0.006 + outfit.flare, LEG + outfit.flare)
    if look.outfit == "boxing shorts":
        brush.paint([limb(leg.joint, leg.tip, LEG - 0.004, LEG - 0.01)], shin)
        brush.paint([upper], thigh)
        return
    lower = limb(leg.joint, leg.tip, LEG + outfit.flare * 0.6, LEG - 0.008 + outfit.flare)
    if thigh == shin:
        brush.paint([upper, lower], thigh)
    else:
        brush.paint([upper], thigh)
        brush.paint([limb(leg.joint, leg.tip, LEG + 0.006, LEG)], shin)
    if look.outfit == "tracksuit":
        _stripe(brush, leg)


def draw_torso(brush: Brush, bones: Skeleton, outfit: Outfit, look: Look, cloth: Colour, skin: Colour) -> None:
    at = bones.on_torso
    if look.outfit == "coat":
        _draw_coat_panels(brush, bones, cloth)
    trunk = curve([at(-0.1, 0.86), at(-0.04, 1.02), at(0.04, 1.02), at(0.1, 0.86), at(0.083, 0.4), at(0.092, -0.1),
                   at(0, -0.18), at(-0.092, -0.1), at(-0.083, 0.4)])  # fmt: skip
    brush.paint([trunk], outfit.chest)
    TRIMS[look.outfit](brush, bones, cloth, skin)
    if look.belt is not None:
        _draw_belt(brush, bones, ACCENT_COLOURS[look.belt])


def draw_arms(brush: Brush, bones: Skeleton, outfit: Outfit, look: Look, skin: Colour) -> None:
    for arm in bones.arms:
        _draw_arm(brush, arm, outfit, look, skin)
    if look.outfit == "armor":
        brush.paint([disc(arm.root, 0.064, 0.056) for arm in bones.arms], shade(outfit.chest, 1.25))


def _draw_arm(brush: Brush, arm: Limb, outfit: Outfit, look: Look, skin: Colour) -> None:
    upper, fore = outfit.sleeves
    hand = arm.tip + 0.014 * direction(_heading(arm.joint, arm.tip))
    if look.gloves is None:
        brush.paint([disc(hand, HAND)], skin)
    cuff = ARM - 0.004 + outfit.flare
    shapes = [limb(arm.root, arm.joint, ARM + 0.004, ARM + outfit.flare * 0.4), limb(arm.joint, arm.tip, ARM, cuff)]
    if upper == fore:
        brush.paint(shapes, upper)
    else:
        brush.paint(shapes[:1], upper)
        brush.paint([limb(arm.joint, arm.tip, ARM + 0.006, ARM + 0.006)], fore)
    if look.outfit == "tracksuit":
        _stripe(brush, arm)
    if look.outfit == "coat":
        brush.paint([disc(arm.tip, 0.046)], GOLD)
        brush.paint([disc(hand, HAND * 0.9)], skin)
    if look.gloves is not None:
        brush.paint([disc(hand, HAND * 1.18)], ACCENT_COLOURS[look.gloves])


def _stripe(brush: Brush, bones: Limb) -> None:
    brush.stroke(np.array([bones.root, bones.joint, bones.tip]), WHITE, 0.022)


def _draw_belt(brush: Brush, bones: Skeleton, colour: Colour) -> None:
    at = bones.on_torso
    brush.paint([curve([at(0.02, 0.16), at(0.07, -0.06), at(0.06, -0.36), at(0.02, -0.36), at(0.0, 0.0)])], colour)
    brush.paint([np.array([at(-0.09, 0.3), at(0.09, 0.3), at(0.092, 0.08), at(-0.092, 0.08)])], colour)
    brush.paint([disc(at(0.01, 0.19), 0.026)], colour)


def _draw_coat_tails(brush: Brush, bones: Skeleton, cloth: Colour) -> None:
    at = bones.on_torso
    lining = curve([at(-0.085, 0.3), at(0.085, 0.3), at(0.15, -0.3), at(0.17, -0.8), at(0.0, -0.66), at(-0.17, -0.8),
                    at(-0.15, -0.3)])  # fmt: skip
    brush.paint([lining], shade(cloth, 0.6))


def _draw_coat_panels(brush: Brush, bones: Skeleton, cloth: Colour) -> None:
    at = bones.on_torso
    for s in (-1, 1):
        panel = curve([at(s * 0.02, 0.2), at(s * 0.09, 0.2), at(s * 0.15, -0.3), at(s * 0.2, -0.8), at(s * 0.13, -0.84),
                       at(s * 0.075, -0.78), at(s * 0.06, -0.3)])  # fmt: skip
        brush.paint([panel], cloth)
        edge = [at(s * 0.03, 0.1), at(s * 0.06, -0.3), at(s * 0.08, -0.74), at(s * 0.13, -0.8), at(s * 0.186, -0.77)]
        brush.stroke(curve(edge, closed=False), GOLD, 0.024)


def _heading(start: Points, end: Points) -> float:
    x, y = end - start
    return float(np.rad2deg(np.arctan2(x, y)))


def _collar(brush: Brush, bones: Skeleton, skin: Colour, depth: float) -> None:
    at = bones.on_torso
    brush.paint([np.array([at(-0.045, 1.02), at(0.045, 1.02), at(0.0, depth)])], skin, ink=False)


def _trim_wrapped(brush: Brush, bones: Skeleton, cloth: Colour, skin: Colour) -> None:
    at = bones.on_torso
    _collar(brush, bones, skin, 0.6)
    lapel = shade(cloth, 0.68)
    brush.stroke(np.array([at(0.05, 1.02), at(-0.05, 0.3)]), lapel, 0.022)
    brush.stroke(np.array([at(-0.05, 1.02), at(0.0, 0.66)]), lapel, 0.022)


def _trim_tank_top(brush: Brush, bones: Skeleton, cloth: Colour, skin: Colour) -> None:
    at = bones.on_torso
    _collar(brush, bones, skin, 0.68)
    brush.paint(
        [curve([at(s * 0.1, 0.9), at(s * 0.06, 0.98), at(s * 0.075, 0.6), at(s * 0.1, 0.7)]) for s in (-1, 1)],
        skin,
        ink=False,
    )
    brush.paint([np.array([at(-0.092, 0.06), at(0.092, 0.06), at(0.1, -0.12), at(0, -0.2), at(-0.1, -0.12)])], DARK)


def _trim_armor(brush: Brush, bones: Skeleton, cloth: Colour, skin: Colour) -> None:
    at = bones.on_torso
    for up in (0.24, 0.44, 0.64):
        brush.stroke(np.array([at(-0.084, up), at(0.084, up)]), shade(cloth, 0.55), 0.014)
    for side in (-0.062, 0.0, 0.062):
        x = side
        brush.paint(
            [np.array([at(x - 0.034, 0.1), at(x + 0.034, 0.1), at(x * 1.2 + 0.036, -0.3), at(x * 1.2 - 0.036, -0.3)])],
            cloth,
        )
    brush.paint([disc(at(0.0, 0.8), 0.022)], GOLD)


def _trim_tracksuit(brush: Brush, bones: Skeleton, cloth: Colour, skin: Colour) -> None:
    at = bones.on_torso
    brush.stroke(np.array([at(0.0, 1.0), at(0.0, -0.05)]), WHITE, 0.018)
    brush.stroke(np.array([at(-0.05, 1.0), at(0.05, 1.0)]), WHITE, 0.024)


def _trim_boxing_shorts(brush: Brush, bones: Skeleton, cloth: Colour, skin: Colour) -> None:
    at = bones.on_torso
    shadow = shade(skin, 0.78)
    brush.stroke(
        curve([at(-0.065, 0.62), at(-0.03, 0.55), at(0.0, 0.62), at(0.03, 0.55), at(0.065, 0.62)], closed=False),
        shadow,
        0.013,
    )
    brush.stroke(np.array([at(0.0, 0.52), at(0.0, 0.28)]), shadow, 0.012)
    brush.paint([np.array([at(-0.088, 0.2), at(0.088, 0.2), at(0.104, -0.12), at(0, -0.24), at(-0.104, -0.12)])], cloth)
    brush.paint([np.array([at(-0.088, 0.2), at(0.088, 0.2), at(0.092, 0.08), at(-0.092, 0.08)])], WHITE)


def _trim_coat(brush: Brush, bones: Skeleton, cloth: Colour, skin: Colour) -> None:
    at = bones.on_torso
    brush.paint([np.array([at(-0.04, 1.0), at(0.04, 1.0), at(0.03, 0.1), at(-0.03, 0.1)])], WHITE, ink=False)
    for side in (-1, 1):
        brush.stroke(np.array([at(side * 0.05, 1.02), at(side * 0.04, 0.0)]), GOLD, 0.026)
    brush.paint([np.array([at(-0.088, 0.22), at(0.088, 0.22), at(0.09, 0.08), at(-0.09, 0.08)])], DARK)
    brush.paint([disc(at(0.0, 0.15), 0.024)], GOLD)


TRIMS = {
    "gi": _trim_wrapped,
    "robe": _trim_wrapped,
    "tank top": _trim_tank_top,
    "armor": _trim_armor,
    "tracksuit": _trim_tracksuit,
    "boxing shorts": _trim_boxing_shorts,
    "coat": _trim_coat,
}
