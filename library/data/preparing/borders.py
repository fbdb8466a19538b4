"""Borders of one colour around a picture: the bars of a film still, the white frame of a scan.

Letters: N lines (rows or columns) of a picture.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

Box = tuple[int, int, int, int]

TOLERANCE = 24
"""Levels (of 256) by which a border's pixels may differ from its colour: JPEG rings beside an edge."""

STRAY = 0.01
"""Share of a border line's pixels that may differ by more."""

STRAIGHT = 0.5
"""Share of a line's pixels that differ where the picture begins. A figure before a plain background begins with its topmost hair:
that background is no border."""

SOFT = 0.01
"""Share of the side within which that must be reached: edges are soft after resizing."""

LEAST_LEFT = 0.25
"""Share of each side that is left at least; what would leave less is no border but the picture."""

Shares = NDArray[np.floating]


def within_borders(image: Image.Image) -> Box:
    """Left, top, right, bottom of what lies within the borders, in pixels; the whole picture where there are none.

    A border is of one colour up to a straight edge, and there is one of the same colour on the opposite side.
    """
    box = (0, 0, *image.size)
    for axis in (1, 0, 1):  # bars above and below may stand within a frame, or a frame within bars
        inner = image.crop(box)
        first, last = _borders(inner, axis)
        left, top, right, bottom = box
        box = (left + first, top, right - last, bottom) if axis == 0 else (left, top + first, right, bottom - last)
    return box


def _borders(image: Image.Image, axis: int) -> tuple[int, int]:
    """Lines of border at the start and the end of the axis (0 for x, 1 for y); both 0 where one side has none."""
    length = image.size[axis]
    colours = [_line_colour(image, axis, place) for place in (0, length - 1)]
    if max(abs(one - other) for one, other in zip(*colours)) > TOLERANCE:
        return 0, 0
    differing_N = _differing(image, colours[0], axis)
    found = np.flatnonzero(differing_N > STRAY)
    if len(found) == 0:
        return 0, 0
    first, last = int(found[0]), length - 1 - int(found[-1])
    soft = max(3, round(SOFT * length))
    straight = all(
        lines_N[lines:][:soft].max() >= STRAIGHT for lines_N, lines in ((differing_N, first), (differing_N[::-1], last))
    )
    if min(first, last) == 0 or not straight or length - first - last < LEAST_LEFT * length:
        return 0, 0
    return first, last


def _line_colour(image: Image.Image, axis: int, place: int) -> tuple[int, ...]:
    box = (place, 0, place + 1, image.height) if axis == 0 else (0, place, image.width, place + 1)
    line = np.asarray(image.crop(box)).reshape(-1, 3)
    return tuple(int(level) for level in np.median(line, axis=0))


def _differing(image: Image.Image, colour: tuple[int, ...], axis: int) -> Shares:
    """(N,) share of each line's pixels that are not of the colour."""
    difference = ImageChops.difference(image, Image.new("RGB", image.size, colour))
    red, green, blue = difference.split()
    most = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    marked = most.point([255 * (level > TOLERANCE) for level in range(256)]).convert("F")
    size = (image.width, 1) if axis == 0 else (1, image.height)
    return np.asarray(marked.resize(size, Image.Resampling.BOX)).ravel() / 255
