"""Backgrounds: plain colours and six scenes, painted in the unit square of the picture."""

from __future__ import annotations

import random

import numpy as np

from library.demo.brush import Brush, Points, disc, shade
from library.demo.look import PLAIN_COLOURS, Colour

HORIZON = 0.76


def draw_background(brush: Brush, background: str, rng: random.Random) -> None:
    """Paint one background; the scenes shift a little from picture to picture."""
    shift = rng.uniform(-0.06, 0.06)
    if background.startswith("plain "):
        _plain(brush, PLAIN_COLOURS[background.removeprefix("plain ")])
    else:
        SCENE_PAINTERS[background](brush, shift)


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _fill(brush: Brush, colour: Colour, *shapes: Points) -> None:
    brush.paint(shapes, colour, ink=False)


def _plain(brush: Brush, colour: Colour) -> None:
    _fill(brush, colour, _box(-1, -1, 2, 2))
    _fill(brush, shade(colour, 0.9), _box(-1, HORIZON + 0.06, 2, 2))


def _dojo(brush: Brush, shift: float) -> None:
    _fill(brush, (246, 232, 204), _box(-1, -1, 2, 2))
    for column in range(-2, 7):
        x = shift + column * 0.24
        _fill(brush, (176, 128, 82), _box(x, 0, x + 0.022, HORIZON))
    for y in (0.2, 0.46):
        _fill(brush, (176, 128, 82), _box(-1, y, 2, y + 0.02))
    _fill(brush, (122, 78, 50), _box(-1, -1, 2, 0.06), _box(-1, HORIZON - 0.05, 2, HORIZON))
    _fill(brush, (206, 152, 94), _box(-1, HORIZON, 2, 2))
    for y in (0.84, 0.92):
        _fill(brush, (178, 124, 74), _box(-1, y, 2, y + 0.014))


def _sunset(brush: Brush, shift: float) -> None:
    bands = [(214, 70, 74), (236, 104, 70), (248, 146, 74), (254, 190, 96)]
    for index, colour in enumerate(bands):
        _fill(brush, colour, _box(-1, index * HORIZON / 4 if index else -1, 2, HORIZON))
    _fill(brush, (255, 240, 170), disc((0.3 + 2 * shift, 0.5), 0.2))
    _fill(brush, (112, 52, 62), _box(-1, HORIZON, 2, 2))
    _fill(brush, (148, 70, 68), _box(-1, HORIZON, 2, HORIZON + 0.03))


def _mountain(brush: Brush, shift: float) -> None:
    _fill(brush, (156, 212, 246), _box(-1, -1, 2, 2))
    for x, height, width in ((0.18, 0.5, 0.42), (0.82, 0.62, 0.5)):
        peak = np.array([(x + shift, HORIZON - height), (x + shift + width, HORIZON), (x + shift - width, HORIZON)])
        cap = peak[0] + (peak - peak[0]) * 0.3
        _fill(brush, (112, 128, 160), peak)
        _fill(brush, (248, 250, 255), cap)
    _fill(brush, (122, 190, 96), _box(-1, HORIZON, 2, 2))
    _fill(brush, (96, 164, 78), _box(-1, HORIZON, 2, HORIZON + 0.03))


def _night_city(brush: Brush, shift: float) -> None:
    _fill(brush, (34, 38, 86), _box(-1, -1, 2, 2))
    _fill(brush, (250, 244, 206), disc((0.82 + shift, 0.16), 0.085))
    for index, top in enumerate((0.34, 0.18, 0.46, 0.26, 0.5, 0.3, 0.4)):
        left = -0.12 + shift + index * 0.18
        _fill(brush, (58, 64, 124) if index % 2 else (72, 80, 146), _box(left, top, left + 0.18, HORIZON))
        for row in np.arange(top + 0.05, HORIZON - 0.06, 0.11):
            _fill(brush, (255, 216, 104), *(_box(left + x, row, left + x + 0.04, row + 0.045) for x in (0.03, 0.1)))
    _fill(brush, (78, 78, 100), _box(-1, HORIZON, 2, 2))
    _fill(brush, (58, 58, 80), _box(-1, HORIZON, 2, HORIZON + 0.03))


def _bamboo_forest(brush: Brush, shift: float) -> None:
    _fill(brush, (206, 236, 178), _box(-1, -1, 2, 2))
    for index in range(-1, 8):
        x = shift + index * 0.155
        colour = (98, 168, 84) if index % 2 else (126, 192, 100)
        _fill(brush, colour, _box(x, -1, x + 0.06, HORIZON))
        for y in (0.12, 0.36, 0.6):
            offset = y + 0.08 * (index % 2)
            _fill(brush, (66, 128, 62), _box(x - 0.006, offset, x + 0.066, offset + 0.02))
    _fill(brush, (128, 112, 70), _box(-1, HORIZON, 2, 2))
    _fill(brush, (84, 140, 66), _box(-1, HORIZON, 2, HORIZON + 0.035))


def _arena(brush: Brush, shift: float) -> None:
    _fill(brush, (66, 56, 76), _box(-1, -1, 2, 2))
    for row, y in enumerate((0.12, 0.28)):
        heads = [disc((shift + 0.08 + 0.17 * i - 0.085 * row, y), 0.062) for i in range(-1, 9)]
        _fill(brush, (104, 90, 112) if row else (86, 74, 96), *heads)
    for y, colour in ((0.42, (226, 60, 56)), (0.54, (250, 250, 250)), (0.66, (58, 110, 226))):
        _fill(brush, colour, _box(-1, y, 2, y + 0.026))
    _fill(
        brush, (214, 218, 226), _box(0.02 + shift, 0.36, 0.07 + shift, 0.8), _box(0.93 + shift, 0.36, 0.98 + shift, 0.8)
    )
    _fill(brush, (222, 214, 196), _box(-1, HORIZON, 2, 2))
    _fill(brush, (196, 56, 58), _box(-1, HORIZON, 2, HORIZON + 0.04))


SCENE_PAINTERS = {
    "dojo": _dojo,
    "sunset": _sunset,
    "mountain": _mountain,
    "night city": _night_city,
    "bamboo forest": _bamboo_forest,
    "arena": _arena,
}
