"""Shapes and a brush: inked, flat-coloured polygons in figure coordinates, through a camera, onto a Pillow image.

Figure coordinates are the unit square with y downwards; a shape is an array of points (N, 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from library.demo.look import Colour

Points = NDArray[np.float64]
Point = Sequence[float] | Points

INK: Colour = (40, 28, 48)


@dataclass(frozen=True)
class Camera:
    """Maps figure coordinates to the unit square of the picture: `focus` comes to `target`, enlarged by `zoom`."""

    focus: tuple[float, float] = (0.5, 0.5)
    target: tuple[float, float] = (0.5, 0.5)
    zoom: float = 1.0

    def project(self, points: Points) -> Points:
        return (np.asarray(points, dtype=float) - self.focus) * self.zoom + self.target


class Brush:
    """Paints shapes on one image."""

    def __init__(self, image: Image.Image, camera: Camera, line: float = 0.011) -> None:
        self._draw = ImageDraw.Draw(image)
        self._size = image.width
        self._camera = camera
        self._line = line

    def paint(self, shapes: Sequence[Points], fill: Colour, ink: bool = True) -> None:
        """Fill shapes of one colour, with one outline around their union."""
        outlines = [self._pixels(shape) for shape in shapes]
        if ink:
            for outline in outlines:
                self._draw.line([*outline, *outline[:2]], fill=INK, width=self._width(2 * self._line), joint="curve")
        for outline in outlines:
            self._draw.polygon(outline, fill=fill)

    def stroke(self, points: Points, colour: Colour = INK, width: float = 0.016) -> None:
        """Draw an open line, `width` in figure units."""
        pixels = self._pixels(points)
        self._draw.line(pixels, fill=colour, width=self._width(width * self._camera.zoom), joint="curve")

    def _pixels(self, points: Points) -> list[tuple[float, float]]:
        return [(float(x), float(y)) for x, y in self._camera.project(points) * self._size]

    def _width(self, width: float) -> int:
        return max(1, round(width * self._size))


def direction(degrees: float) -> Points:
    """Unit vector of a limb: 0 hangs down, 90 points right, -90 left, 180 up."""
    angle = np.deg2rad(degrees)
    return np.array([np.sin(angle), np.cos(angle)])


def disc(centre: Point, rx: float, ry: float | None = None, turn: float = 0.0, corners: int = 28) -> Points:
    """An ellipse, turned by degrees."""
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    ring = np.stack([rx * np.cos(angles), (rx if ry is None else ry) * np.sin(angles)], axis=1)
    return np.asarray(centre) + rotate(ring, turn)


def limb(start: Point, end: Point, start_radius: float, end_radius: float) -> Points:
    """A capsule that tapers from one radius to another."""
    return hull(np.concatenate([disc(start, start_radius, corners=18), disc(end, end_radius, corners=18)]))


def rotate(points: Points, degrees: float) -> Points:
    """Turn points around the origin, clockwise on the screen for positive degrees."""
    angle = np.deg2rad(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.asarray(points, dtype=float) @ np.array([[cos, sin], [-sin, cos]])


def hull(points: Points) -> Points:
    """Convex hull, by Andrew's monotone chain."""
    ordered = sorted({(float(x), float(y)) for x, y in points})
    lower, upper = _chain(ordered), _chain(ordered[::-1])
    return np.array(lower[:-1] + upper[:-1])


def _chain(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    kept: list[tuple[float, float]] = []
    for x, y in points:
        while len(kept) > 1 and _turn(kept[-2], kept[-1], (x, y)) <= 0:
            kept.pop()
        kept.append((x, y))
    return kept


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def curve(points: Sequence[Point], closed: bool = True, steps: int = 6) -> Points:
    """A smooth Catmull-Rom curve through points."""
    knots = np.asarray(points, dtype=float)
    around = np.concatenate([knots[-1:], knots, knots[:2]] if closed else [knots[:1], knots, knots[-1:]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    pieces = [_catmull_rom(around[i : i + 4], t) for i in range(len(around) - 3)]
    return np.concatenate(pieces if closed else [*pieces, knots[-1:]])


def _catmull_rom(p: Points, t: Points) -> Points:
    return 0.5 * (
        2 * p[1] + (p[2] - p[0]) * t + (2 * p[0] - 5 * p[1] + 4 * p[2] - p[3]) * t**2
        + (3 * p[1] - p[0] - 3 * p[2] + p[3]) * t**3
    )  # fmt: skip


def shade(colour: Colour, factor: float) -> Colour:
    """Darken (below 1) or lighten towards white (above 1)."""
    if factor <= 1:
        return _colour(c * factor for c in colour)
    return _colour(255 - (255 - c) * (2 - factor) for c in colour)


def _colour(channels: Iterable[float]) -> Colour:
    r, g, b = (round(min(255, max(0, c))) for c in channels)
    return (r, g, b)
