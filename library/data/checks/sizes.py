"""Findings about sizes: pictures of which nothing can be learned, and such as are enlarged, or cut far down.

Letters: N pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from library.config.dataset import Dataset
from library.config.schema.data import BucketConfig
from library.data.checks.findings import Finding
from library.data.index.pictures import Pictures
from library.data.pictures.buckets import Size, bucket_sizes, by_size, training_size
from library.data.pictures.placement import covering

UNUSABLE = "unusable size"
"""Kind of what is said of them."""

SHORTEST_SIDE = 32

WIDEST_ASPECT = 8.0

MOST_ENLARGED = 1.5

MOST_LOST = 0.35
"""Share of a picture beyond which its being cut away is told; what a camera's 3:2 loses to a square is a third."""

EXTREME_ASPECT = 4.0


def is_usable(
    widths_N: NDArray[np.integer], heights_N: NDArray[np.integer], shortest_side: int = SHORTEST_SIDE
) -> NDArray[np.bool_]:
    """(N,) which sizes something can be learned from."""
    short_N, long_N = np.minimum(widths_N, heights_N), np.maximum(widths_N, heights_N)
    return (short_N >= shortest_side) & (long_N <= WIDEST_ASPECT * short_N)


def why_unusable(size: Size, shortest_side: int = SHORTEST_SIDE) -> str:
    """What is wrong with a size that is not usable."""
    width, height = size
    if min(size) < shortest_side:
        return f"is only {width}x{height} pixels; at least {shortest_side} a side are needed."
    return f"is {width}x{height}, longer than {WIDEST_ASPECT:g}:1; cropping would lose most of it."


def about_sizes(pictures: Pictures, datasets: Sequence[Dataset]) -> Iterator[Finding]:
    """Pictures that are far smaller than they are trained at, and such as have quite another shape."""
    widths_N, heights_N = pictures.rows_N["width"], pictures.rows_N["height"]
    datasets_N = pictures.of_subsets("dataset")
    for number, dataset in enumerate(datasets):
        config, sizes = dataset.buckets, bucket_sizes(dataset.buckets)
        if not sizes and not config.bucket_no_upscale:
            continue  # no size is possible, which is told when the model's stride is known
        places = np.flatnonzero(datasets_N == number)
        for size, members in by_size(widths_N[places], heights_N[places]):
            target = training_size(size, config, sizes)
            for place in places[members] if _is_told(size, target) else ():
                path = str(pictures[place].path)
                yield from _about_enlarged(path, size, target)
                yield from about_shape(path, size, target, share_lost(size, target), _how_to_keep(config))


def share_lost(size: Size, target: Size) -> float:
    """Share of a picture's area that is cut away to bring it to another shape."""
    width, height = covering(size, target)
    return 1 - target[0] * target[1] / (width * height)


def about_shape(path: str, size: Size, target: Size, lost: float, advice: str) -> Iterator[Finding]:
    """A picture of which much is cut away, or that is far longer than wide.

    Args:
        target: what it becomes.
        lost: share of it that is cut away for that.
        advice: how more of it is kept.
    """
    aspect = max(size) / min(size)
    kind = "extreme aspect" if aspect > EXTREME_ASPECT else "cut away"
    if lost > MOST_LOST:
        message = f"is {size[0]}x{size[1]}, and {lost:.0%} of it is cut away to make it {target[0]}x{target[1]}."
        yield Finding(kind, "warning", path, message, advice)
    elif aspect > EXTREME_ASPECT:
        message = (
            f"is {size[0]}x{size[1]}, longer than {EXTREME_ASPECT:g}:1, and is trained at {target[0]}x{target[1]}."
        )
        yield Finding(
            kind, "notice", path, message, "Models know few pictures of such a shape: crop it to what counts."
        )


def _is_told(size: Size, target: Size) -> bool:
    """Whether anything is to be said of pictures of that size: of a million others none need be made."""
    return (
        _times_enlarged(size, target) > MOST_ENLARGED
        or share_lost(size, target) > MOST_LOST
        or max(size) > EXTREME_ASPECT * min(size)
    )


def _times_enlarged(size: Size, target: Size) -> float:
    return covering(size, target)[0] / size[0]


def _about_enlarged(path: str, size: Size, target: Size) -> Iterator[Finding]:
    factor = _times_enlarged(size, target)
    if factor > MOST_ENLARGED:
        found = f"is {size[0]}x{size[1]} and is enlarged {factor:.1f} times to train at {target[0]}x{target[1]}."
        yield Finding("enlarged", "notice", path, found, "It will look soft.")


def _how_to_keep(config: BucketConfig) -> str:
    """More of pictures whose shape is not that of their training size."""
    crop = (
        "Crop it yourself to what counts (`dojo dataset prepare --fit bucket --focus ...` chooses the end that stays)"
    )
    if not config.enable_bucket:
        return f"{crop}, or set enable_bucket = true, which trains pictures in shapes near their own."
    if config.bucket_no_upscale:
        return f"{crop}, or lower bucket_reso_steps ({config.bucket_reso_steps})."
    shortest, longest = config.min_bucket_reso, config.max_bucket_reso
    return (
        f"{crop}, or allow longer shapes: a lower min_bucket_reso ({shortest}) or a higher max_bucket_reso ({longest})."
    )
