"""Where a picture lies in its training size: the resize, crop and flip really performed. Sizes are (width, height)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from library.data.pictures.buckets import Size


@dataclass(frozen=True)
class Geometry:
    """SDXL's size conditioning of one picture, in pixels, each (height, width) or (top, left)."""

    original_size: tuple[int, int]
    crop_top_left: tuple[int, int]
    target_size: tuple[int, int]

    def values(self) -> list[int]:
        """The six numbers in the order in which SDXL embeds them."""
        return [*self.original_size, *self.crop_top_left, *self.target_size]


@dataclass(frozen=True)
class Placement:
    """A picture of `original` size is resized to `resized`, cut to `target` at (left, top), then mirrored if `flip`."""

    original: Size
    resized: Size
    left: int
    top: int
    target: Size
    flip: bool = False

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The crop in the resized picture: left, top, right, bottom."""
        return self.left, self.top, self.left + self.target[0], self.top + self.target[1]

    def geometry(self) -> Geometry:
        """SDXL's size conditioning; a mirrored picture counts as one mirrored before it was cropped."""
        left = self.resized[0] - self.target[0] - self.left if self.flip else self.left
        return Geometry(self.original[::-1], (self.top, left), self.target[::-1])


@dataclass(frozen=True)
class Face:
    """A face in the picture, in pixels of the upright original."""

    centre_x: int
    centre_y: int
    width: int
    height: int


def face_of(stem: str) -> Face | None:
    """The face that a file name such as `anna_320_180_96_110` tells of: centre x, centre y, width, height."""
    parts = stem.split("_")
    if len(parts) < 5 or not all(part.isdecimal() for part in parts[-4:]) or min(map(int, parts[-2:])) <= 0:
        return None
    return Face(*map(int, parts[-4:]))


def covering(original: Size, target: Size) -> Size:
    """The smallest size of the original's shape that covers the target."""
    (width, height), (target_width, target_height) = original, target
    if target_width * height >= target_height * width:
        return target_width, max(target_height, int(height * target_width / width + 0.5))
    return max(target_width, int(width * target_height / height + 0.5)), target_height


def centred(original: Size, target: Size) -> Placement:
    """Scaled to cover the target and cut at the centre."""
    resized = covering(original, target)
    return Placement(original, resized, (resized[0] - target[0]) // 2, (resized[1] - target[1]) // 2, target)


def at_random(original: Size, target: Size, rng: random.Random) -> Placement:
    """Scaled to cover the target and cut anywhere."""
    resized = covering(original, target)
    left, top = (rng.randint(0, resized[axis] - target[axis]) for axis in (0, 1))
    return Placement(original, resized, left, top, target)


def around_face(
    original: Size, target: Size, face: Face, zoom: Sequence[float], anywhere: bool, rng: random.Random
) -> Placement:
    """Cut around a face, as sd-scripts does for `face_crop_aug_range`.

    Args:
        zoom: the target's short side is this many faces wide, drawn from (lowest, highest); the picture is never
            enlarged for it, except to cover the target.
        anywhere: scatter the crop around the face over the whole picture (`random_crop`).
    """
    face_size = max(face.width, face.height)
    cover = max(target[0] / original[0], target[1] / original[1])
    low, high = (max(cover, min(1.0, min(target) / (face_size * factor))) for factor in (zoom[1], zoom[0]))
    scale = rng.uniform(low, high) if low < high else low
    resized = covering(original, target) if scale <= cover else _scaled(original, scale, target)
    scale = resized[0] / original[0]
    jitter = int(face_size * scale) // 20 if zoom[0] != zoom[1] else 0
    starts = []
    for axis, centre in ((0, face.centre_x), (1, face.centre_y)):
        middle = int(centre * scale + 0.5)
        reach = max(resized[axis] - middle, middle) if anywhere else 0
        shift = (rng.randint(0, reach) + rng.randint(0, reach) - reach) if anywhere else rng.randint(-jitter, jitter)
        starts.append(max(0, min(middle - target[axis] // 2 + shift, resized[axis] - target[axis])))
    return Placement(original, resized, starts[0], starts[1], target)


def _scaled(original: Size, scale: float, target: Size) -> Size:
    width, height = (max(target[axis], int(original[axis] * scale + 0.5)) for axis in (0, 1))
    return width, height


def mirrored(placement: Placement) -> Placement:
    """The same with left and right exchanged."""
    return replace(placement, flip=not placement.flip)
