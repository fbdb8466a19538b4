"""Bucket lists and assignments, against sd-scripts' rules written out in numpy: for thousands of sizes in every setting."""

from __future__ import annotations

import math

import numpy as np
import pytest

from library.config.schema.data import BucketConfig
from library.data.pictures.buckets import bucket_sizes, training_size
from library.data.pictures.placement import centred

Size = tuple[int, int]

SETTINGS = [
    ([512, 512], 256, 1024, 64),
    ([512, 512], 256, 1024, 32),
    ([768, 768], 384, 1152, 64),
    ([768, 768], 300, 1500, 64),
    ([1024, 1024], 256, 2048, 64),
    ([1024, 1024], 512, 2048, 32),
    ([768, 512], 256, 1024, 64),
    ([640, 960], 320, 1280, 32),
]
"""Resolution, min_bucket_reso, max_bucket_reso, bucket_reso_steps."""


def listed(resolution: Size, low: int, high: int, step: int) -> list[Size]:
    """The square floor(sqrt(area) / step) · step, and for each width from low to high the height floor(area / width / step) · step."""
    low, high = low - low % step, -(-high // step) * step
    area = resolution[0] * resolution[1]
    square = int(math.sqrt(area) // step) * step
    sizes = {(square, square)}
    for width in np.arange(low, high + 1, step).tolist():
        height = min(high, area // width // step * step)
        if height >= low:
            sizes.update([(width, height), (height, width)])
    return sorted(sizes)


def nearest(picture: Size, sizes: list[Size]) -> Size:
    """An exact match, else the first of the smallest differences of width / height."""
    if picture in sizes:
        return picture
    aspects = np.array([width / height for width, height in sizes])
    return sizes[int(np.abs(aspects - picture[0] / picture[1]).argmin())]


def without_upscaling(picture: Size, area: int, step: int) -> Size | None:
    """sd-scripts: beyond the area scaled down to it, then to a multiple of the step in that direction which changes the aspect
    ratio less; None where it would divide by 0."""
    width, height = picture
    if width * height > area:
        aspect = width / height
        scaled = math.sqrt(area * aspect), area / math.sqrt(area * aspect)
        first = int(scaled[0] + 0.5) // step * step
        other = int(first / aspect + 0.5) // step * step
        second = int(scaled[1] + 0.5) // step * step
        another = int(second * aspect + 0.5) // step * step
        if 0 in (other, second):
            return None
        if abs(first / other - aspect) < abs(another / second - aspect):
            width, height = first, int(first / aspect + 0.5)
        else:
            width, height = int(second * aspect + 0.5), second
    return width // step * step, height // step * step


def random_sizes(resolution: list[int], sizes: list[Size]) -> list[Size]:
    """Thousands of pictures, small and large, every bucket's own size, and its neighbours by a pixel, where ties turn."""
    draw = np.random.default_rng(sum(resolution))
    free = np.exp(draw.uniform(np.log(64), np.log(6000), (2000, 2))).astype(int)
    near = np.array([size for size in sizes for _ in range(8)]) + draw.integers(-1, 2, (8 * len(sizes), 2))
    multiples = np.array(sizes) * draw.integers(1, 4, (len(sizes), 1))
    return [(int(width), int(height)) for width, height in np.concatenate([free, near, multiples, np.array(sizes)])]


@pytest.mark.parametrize(("resolution", "low", "high", "step"), SETTINGS)
def test_lists_and_assignments(resolution: list[int], low: int, high: int, step: int) -> None:
    config = BucketConfig(
        resolution=resolution, enable_bucket=True, min_bucket_reso=low, max_bucket_reso=high, bucket_reso_steps=step
    )
    expected = listed((resolution[0], resolution[1]), low, high, step)
    sizes = bucket_sizes(config)
    assert sizes == expected
    pictures = random_sizes(resolution, expected)
    found = [training_size(picture, config, sizes) for picture in pictures]
    assert found == [nearest(picture, expected) for picture in pictures]


@pytest.mark.parametrize(("resolution", "low", "high", "step"), SETTINGS)
def test_assignments_without_upscaling(resolution: list[int], low: int, high: int, step: int) -> None:
    config = BucketConfig(resolution=resolution, enable_bucket=True, bucket_no_upscale=True, bucket_reso_steps=step)
    for picture in random_sizes(resolution, listed((resolution[0], resolution[1]), low, high, step)):
        wanted = without_upscaling(picture, resolution[0] * resolution[1], step)
        found = training_size(picture, config, bucket_sizes(config))
        if wanted is None or 0 in wanted:  # sd-scripts has no batch for these; here they have one of a single step
            assert min(found) == step
        else:
            assert found == wanted, picture


@pytest.mark.parametrize(("resolution", "low", "high", "step"), SETTINGS)
def test_pictures_are_scaled_to_cover_their_bucket(resolution: list[int], low: int, high: int, step: int) -> None:
    """By the side that leaves the other one over, to the nearest pixel, and cut at the centre."""
    sizes = listed((resolution[0], resolution[1]), low, high, step)
    for width, height in random_sizes(resolution, sizes):
        bucket = nearest((width, height), sizes)
        scale = bucket[1] / height if width / height > bucket[0] / bucket[1] else bucket[0] / width
        placement = centred((width, height), bucket)
        for axis, length in enumerate((width, height)):
            assert abs(placement.resized[axis] - length * scale) <= 0.5 + 1e-6
            assert placement.resized[axis] >= bucket[axis]
        assert placement.left == (placement.resized[0] - bucket[0]) // 2
        assert placement.top == (placement.resized[1] - bucket[1]) // 2
