"""Sizes that pictures are brought to, so that those of similar shape share a batch. Sizes are (width, height) in pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from library.config.schema.data import BucketConfig

Size = tuple[int, int]


def bucket_sizes(config: BucketConfig) -> list[Size]:
    """The sizes that a dataset's pictures can have, sorted.

    One size without `enable_bucket`. With it, sizes of about the resolution's area whose sides are multiples of
    `bucket_reso_steps` between `min_bucket_reso` and `max_bucket_reso`. Empty under `bucket_no_upscale`, where each
    picture makes its own size (`own_size`).
    """
    width, height = config.resolution
    if not config.enable_bucket:
        return [(width, height)]
    if config.bucket_no_upscale:
        return []
    return graded_sizes(width * height, *side_range(config), config.bucket_reso_steps)


def side_range(config: BucketConfig) -> tuple[int, int]:
    """Shortest and longest side, `min_bucket_reso` lowered and `max_bucket_reso` raised to multiples of the step."""
    step = config.bucket_reso_steps
    return max(step, floored(config.min_bucket_reso, step)), floored(config.max_bucket_reso + step - 1, step)


def graded_sizes(area: int, shortest: int, longest: int, step: int) -> list[Size]:
    """The square of that area, and for every width the largest height within the area, both ways round."""
    square = floored(math.isqrt(area), step)
    sizes = {(square, square)} if square else set()
    for width in range(shortest, longest + 1, step):
        height = min(longest, floored(area // width, step))
        if height >= shortest:
            sizes |= {(width, height), (height, width)}
    return sorted(sizes)


def nearest_size(picture: Size, sizes: Sequence[Size]) -> Size:
    """The picture's own size where it is a bucket, else the bucket of the nearest aspect ratio, the first on a tie."""
    if picture in sizes:
        return picture
    aspect = picture[0] / picture[1]
    return min(sizes, key=lambda size: abs(size[0] / size[1] - aspect))


def own_size(picture: Size, area: int, step: int) -> Size:
    """Size of a picture that is never enlarged, as in sd-scripts: each side floored to the step.

    Above the area it is scaled down to it, and then a little further, until its width or its height is a multiple of the step:
    whichever keeps the shape better.
    """
    width, height = picture
    if width * height <= area:
        return _stepped(width, step), _stepped(height, step)
    aspect = width / height
    by_width = _stepped(math.sqrt(area * aspect), step)
    by_height = _stepped(math.sqrt(area / aspect), step)
    widths, heights = (by_width, _stepped(by_width / aspect, step)), (_stepped(by_height * aspect, step), by_height)
    return min(heights, widths, key=lambda size: abs(size[0] / size[1] - aspect))


@dataclass(frozen=True, eq=False)
class Sizes(Sequence[Size]):
    """The size of each of N pictures, of which few differ."""

    different: list[Size]
    """In ascending order."""
    numbers_N: NDArray[np.int32]
    """Which of them."""

    def __len__(self) -> int:
        return len(self.numbers_N)

    def __getitem__(self, index: Any) -> Any:
        """Of one picture; with an array of places, the sizes of those."""
        if isinstance(index, np.ndarray):
            return Sizes(self.different, self.numbers_N[index])
        return self.different[int(self.numbers_N[index])]


def by_size(widths_N: NDArray[np.integer], heights_N: NDArray[np.integer]) -> Iterator[tuple[Size, NDArray[np.int64]]]:
    """Each different size of N pictures, in ascending order, and the places of the pictures that have it."""
    both_N = widths_N.astype(np.int64) << 32 | heights_N.astype(np.int64)
    order = np.argsort(both_N, kind="stable")
    pairs, starts = np.unique(both_N[order], return_index=True)
    for pair, members in zip(pairs.tolist(), np.split(order, starts[1:])):
        yield (pair >> 32, pair & 0xFFFFFFFF), members


def sizes_of(widths_N: NDArray[np.integer], heights_N: NDArray[np.integer], size_of: Callable[[Size], Size]) -> Sizes:
    """What `size_of` makes of each of N pictures; it is asked once for each different size."""
    made = [(size_of(size), members) for size, members in by_size(widths_N, heights_N)]
    different = sorted({size for size, _ in made})
    numbers_N = np.zeros(len(widths_N), np.int32)
    for size, members in made:
        numbers_N[members] = different.index(size)
    return Sizes(different, numbers_N)


def training_size(picture: Size, config: BucketConfig, sizes: Sequence[Size]) -> Size:
    """Size at which a picture is trained; `sizes` is `bucket_sizes(config)`."""
    if config.enable_bucket and config.bucket_no_upscale:
        width, height = config.resolution
        return own_size(picture, width * height, config.bucket_reso_steps)
    return nearest_size(picture, sizes)


def bucket_problems(config: BucketConfig, stride: int) -> list[str]:
    """What is wrong with the sizes, for a model with `stride` pixels a latent; each names its key."""
    width, height = config.resolution
    shortest, longest, step = config.min_bucket_reso, config.max_bucket_reso, config.bucket_reso_steps
    if not config.enable_bucket:
        if width % stride or height % stride:
            return [
                f"resolution {width}x{height}: both sides must be multiples of {stride} for this model; "
                f"nearest: {rounded(width, stride)}x{rounded(height, stride)}."
            ]
        return []
    problems = []
    if step % stride:
        problems.append(f"bucket_reso_steps {step}: must be a multiple of {stride} for this model.")
    if config.bucket_no_upscale:
        return problems
    if min(width, height) < max(shortest, step):
        problems.append(
            f"resolution {width}x{height}: its sides must be at least min_bucket_reso {shortest} and bucket_reso_steps {step}; "
            "lower those or raise the resolution."
        )
    if longest < max(width, height):
        problems.append(f"max_bucket_reso {longest}: must not be below the resolution {width}x{height}; raise it.")
    return problems


def floored(length: float, step: int) -> int:
    """The largest multiple of the step within the length."""
    return int(length) // step * step


def _stepped(length: float, step: int) -> int:
    """The length in whole pixels, floored to the step, at least one step."""
    return max(step, floored(length + 0.5, step))


def rounded(length: int, step: int) -> int:
    """The multiple of the step nearest to the length, at least one step."""
    return max(step, (length + step // 2) // step * step)
