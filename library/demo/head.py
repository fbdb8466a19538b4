"""Heads: faces, hair and headbands, drawn in head coordinates (unit radius, origin in the middle, y downwards)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from library.demo.brush import INK, Brush, Points, curve, disc, rotate, shade
from library.demo.look import Colour

WHITE: Colour = (255, 255, 255)
MOUTH: Colour = (176, 44, 52)


@dataclass(frozen=True)
class HeadFrame:
    """Where the head is: centre and radius in figure coordinates, tilt in degrees."""

    centre: Points
    radius: float
    tilt: float

    def place(self, points: Points) -> Points:
        return self.centre + self.radius * rotate(points, self.tilt)


@dataclass(frozen=True)
class Hair:
    """Shapes behind the body, behind the head, and over the face, and lines that lighten it."""

    behind: tuple[Points, ...] = ()
    front: tuple[Points, ...] = ()
    shine: tuple[Points, ...] = ()


def draw_back_hair(brush: Brush, frame: HeadFrame, style: str, colour: Colour) -> None:
    shapes = [frame.place(shape) for shape in HAIR[style]().behind]
    brush.paint(shapes, shade(colour, 0.82))


def draw_head(brush: Brush, frame: HeadFrame, skin: Colour, expression: str, style: str, hair_colour: Colour) -> None:
    """Ears, face, features, then the hair over them."""
    ears = [disc((side * 0.97, 0.12), 0.2, 0.24) for side in (-1, 1)]
    brush.paint([frame.place(ear) for ear in ears], skin)
    brush.paint([frame.place(disc((0, 0), 1.0, 0.93))], skin)
    _draw_face(brush, frame, skin, expression)
    hair = HAIR[style]()
    brush.paint([frame.place(shape) for shape in hair.front], hair_colour)
    for line in hair.shine:
        brush.stroke(frame.place(line), shade(hair_colour, 1.45), width=0.09 * frame.radius)


def draw_headband(brush: Brush, frame: HeadFrame, colour: Colour) -> None:
    tails = [curve([(-0.9, -0.3), (-1.45, -0.2), (-1.75, 0.12), (-1.4, 0.06), (-0.9, -0.12)])]
    brush.paint([frame.place(tail) for tail in tails], colour)
    band = curve([(-0.99, -0.42), (-0.5, -0.52), (0, -0.55), (0.5, -0.52), (0.99, -0.42)], closed=False)
    brush.paint([frame.place(np.concatenate([band, band[::-1] + np.array([0, 0.24])]))], colour)


def _draw_face(brush: Brush, frame: HeadFrame, skin: Colour, expression: str) -> None:
    def stroke(points: Points, width: float, colour: Colour = INK) -> None:
        brush.stroke(frame.place(points), colour, width * frame.radius)

    cheeks = [disc((x, 0.42), 0.16, 0.1) for x in (-0.52, 0.66)]
    brush.paint([frame.place(cheek) for cheek in cheeks], _blush(skin), ink=False)
    for x in (-0.32, 0.46):
        _draw_eye(brush, frame, x, expression)
        inner = -1 if x > 0 else 1
        slant = 0.13 if expression in ("angry", "shouting") else -0.04
        stroke(np.array([(x + inner * 0.2, -0.24 + slant), (x - inner * 0.2, -0.24 - slant)]), 0.1)
    _draw_mouth(brush, frame, expression)


def _draw_eye(brush: Brush, frame: HeadFrame, x: float, expression: str) -> None:
    if expression == "calm":
        lid = curve([(x - 0.2, 0.1), (x, 0.2), (x + 0.2, 0.1)], closed=False)
        brush.stroke(frame.place(lid), INK, 0.11 * frame.radius)
        return
    brush.paint([frame.place(disc((x, 0.12), 0.15, 0.23))], INK, ink=False)
    brush.paint([frame.place(disc((x + 0.05, 0.03), 0.065, 0.08))], WHITE, ink=False)


def _draw_mouth(brush: Brush, frame: HeadFrame, expression: str) -> None:
    if expression == "shouting":
        brush.paint([frame.place(disc((0.07, 0.6), 0.22, 0.2))], MOUTH)
        return
    bend = {"smiling": 0.14, "angry": -0.1, "calm": 0.0}[expression]
    mouth = curve([(-0.16, 0.56), (0.07, 0.56 + bend), (0.3, 0.56)], closed=False)
    brush.stroke(frame.place(mouth), INK, 0.1 * frame.radius)


def _blush(skin: Colour) -> Colour:
    r, g, b = skin
    return (min(255, r + 4), round(g * 0.82), round(b * 0.82))


def _crown(fringe: list[tuple[float, float]], radius: float = 1.1) -> Points:
    """The scalp from ear to ear over the top, closed by a fringe given from right to left."""
    angles = np.deg2rad(np.linspace(172, 368, 22))
    arc = np.stack([radius * np.cos(angles), radius * 0.97 * np.sin(angles)], axis=1)
    return np.concatenate([arc, np.array(fringe)])


SIDE_SWEPT = [(0.92, -0.1), (0.62, -0.42), (0.3, -0.3), (0.1, -0.55), (-0.25, -0.2), (-0.45, -0.5), (-0.9, -0.05)]
STRAIGHT = [(0.95, -0.05), (0.82, -0.3), (0.4, -0.34), (0.0, -0.36), (-0.4, -0.34), (-0.82, -0.3), (-0.95, -0.05)]
PULLED_BACK = [(0.9, -0.2), (0.6, -0.55), (0.15, -0.66), (-0.35, -0.62), (-0.72, -0.45), (-0.9, -0.2)]
SHINE = curve([(-0.62, -0.72), (-0.35, -0.88), (-0.05, -0.93)], closed=False)


def _spiky() -> Hair:
    tips = [(-1.32, -0.05), (-1.55, -0.62), (-1.15, -1.15), (-0.62, -1.55), (0.02, -1.68), (0.66, -1.52), (1.2, -1.1),
            (1.5, -0.55), (1.28, 0.0)]  # fmt: skip
    valleys = [(-1.05, -0.35), (-1.0, -0.72), (-0.68, -1.0), (-0.28, -1.12), (0.3, -1.12), (0.7, -0.98), (1.02, -0.7),
               (1.05, -0.35)]  # fmt: skip
    outline = [point for pair in zip(tips, [*valleys, (0.95, 0.0)], strict=True) for point in pair]
    return Hair(front=(np.array([(-0.92, 0.05), *outline, *SIDE_SWEPT]),), shine=(SHINE,))


def _long() -> Hair:
    mane = curve([(-1.1, -0.5), (0, -1.12), (1.1, -0.5), (1.28, 0.6), (1.4, 1.75), (0.7, 1.95), (0, 1.8), (-0.7, 1.95),
                  (-1.4, 1.75), (-1.28, 0.6)])  # fmt: skip
    locks = [
        curve([(s * 1.05, -0.5), (s * 1.16, 0.2), (s * 1.06, 1.0), (s * 0.84, 0.55), (s * 0.86, -0.2)]) for s in (-1, 1)
    ]
    parted = [(0.95, -0.05), (0.75, -0.35), (0.3, -0.62), (0.05, -0.85), (-0.2, -0.6), (-0.75, -0.32), (-0.95, -0.05)]
    return Hair(behind=(mane,), front=(_crown(parted), *locks), shine=(SHINE,))


def _ponytail() -> Hair:
    tail = curve([(-0.5, -0.95), (-1.0, -1.4), (-1.6, -1.2), (-1.95, -0.4), (-1.75, 0.6), (-1.5, 0.75), (-1.45, -0.1),
                  (-1.2, -0.6), (-0.8, -0.7)])  # fmt: skip
    return Hair(behind=(tail,), front=(_crown(PULLED_BACK, 1.06),), shine=(SHINE,))


def _bob() -> Hair:
    back = curve([(-1.1, -0.5), (0, -1.15), (1.1, -0.5), (1.34, 0.3), (1.2, 0.86), (0.5, 0.92), (-0.5, 0.92), (-1.2, 0.86),
                  (-1.34, 0.3)])  # fmt: skip
    sides = [
        curve([(s * 1.08, -0.4), (s * 1.3, 0.25), (s * 1.12, 0.78), (s * 0.8, 0.6), (s * 0.84, -0.1)]) for s in (-1, 1)
    ]
    return Hair(behind=(back,), front=(_crown(STRAIGHT, 1.12), *sides), shine=(SHINE,))


def _mohawk() -> Hair:
    crest = [(-0.3, -0.42), (-0.52, -0.95), (-0.78, -1.5), (-0.34, -1.42), (-0.1, -1.86), (0.2, -1.46), (0.62, -1.66),
             (0.5, -0.98), (0.34, -0.45), (0.05, -0.3)]  # fmt: skip
    return Hair(front=(np.array(crest),))


def _afro() -> Hair:
    bumps = [disc((1.1 * np.cos(a), -0.38 + 1.05 * np.sin(a)), 0.55) for a in np.deg2rad(np.arange(150, 400, 24))]
    return Hair(behind=tuple(bumps), front=(_crown(PULLED_BACK, 1.15), *(b * 0.99 for b in bumps[3:8])))


def _twin_buns() -> Hair:
    buns = [disc((s * 0.92, -0.98), 0.46) for s in (-1, 1)]
    return Hair(behind=tuple(buns), front=(_crown(SIDE_SWEPT), *buns), shine=(SHINE,))


def _bald() -> Hair:
    return Hair()


HAIR: dict[str, Callable[[], Hair]] = {
    "spiky hair": _spiky,
    "long hair": _long,
    "ponytail": _ponytail,
    "bob hair": _bob,
    "mohawk": _mohawk,
    "afro": _afro,
    "twin buns": _twin_buns,
    "bald": _bald,
}
