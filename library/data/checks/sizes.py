"""Findings about sizes: pictures of which nothing can be learned, and such as are enlarged.

Letters: N pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from library.config.dataset import Dataset
from library.data.checks.findings import Finding
from library.data.index.pictures import Pictures
from library.data.pictures.buckets import Size, bucket_sizes, by_size, training_size
from library.data.pictures.placement import covering

UNUSABLE = "unusable size"
"""Kind of what is said of them."""

SHORTEST_SIDE = 32

WIDEST_ASPECT = 8.0

MOST_ENLARGED = 1.5


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


def about_enlarged(pictures: Pictures, datasets: Sequence[Dataset]) -> Iterator[Finding]:
    """Pictures that are far smaller than they are trained at."""
    widths_N, heights_N = pictures.rows_N["width"], pictures.rows_N["height"]
    datasets_N = pictures.of_subsets("dataset")
    for number, dataset in enumerate(datasets):
        config, sizes = dataset.buckets, bucket_sizes(dataset.buckets)
        if not sizes and not config.bucket_no_upscale:
            continue  # no size is possible, which is told when the model's stride is known
        places = np.flatnonzero(datasets_N == number)
        for size, members in by_size(widths_N[places], heights_N[places]):
            target = training_size(size, config, sizes)
            factor = covering(size, target)[0] / size[0]
            for place in places[members] if factor > MOST_ENLARGED else ():
                found = (
                    f"is {size[0]}x{size[1]} and is enlarged {factor:.1f} times to train at {target[0]}x{target[1]}."
                )
                yield Finding("enlarged", "notice", str(pictures[place].path), found, "It will look soft.")
