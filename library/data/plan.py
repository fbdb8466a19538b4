"""The order of training as a pure function of the seed: which pictures are in which step, and who computes which.

A step's global batch (batch size x processes x accumulation) comes from one bucket, so that all of it has one size. An epoch
shows every entry, a picture or one of its repeats, once: each bucket is shuffled and cut into global batches, and all
batches are shuffled. The last batch of a bucket may be short; it stays short, and its loss is averaged over the
samples it has, so no picture is shown twice or left out to fill it up.

Entries and orders are never listed: an entry is a number, and any place of a shuffle is computed when it is asked for. So repeats
and epochs take no memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from library.config.dataset import Dataset
from library.core.randomness import Permutation, permutation
from library.data.index.pictures import Pictures
from library.data.pictures.buckets import Size, Sizes, bucket_sizes, sizes_of, training_size

T = TypeVar("T")

ORDERS_KEPT = 64
"""Shuffles that are kept ready to be asked."""


@dataclass(frozen=True, eq=False)
class Bucket:
    """Pictures of one dataset that are trained at one size. Letter: P pictures."""

    dataset: int
    size: Size
    batch_size: int
    """Entries in a global batch: of all processes and accumulated passes."""
    pictures_P: NDArray[np.int32]
    ends_P: NDArray[np.int64]
    """For each picture the number of entries up to its last repeat."""
    samples: int
    """Entries: pictures with their repeats."""

    @property
    def batches(self) -> int:
        """Global batches in an epoch, the short one included."""
        return -(-self.samples // self.batch_size)

    def first_batch(self) -> Bucket:
        """The bucket with no more than the first of its batches."""
        return replace(self, samples=min(self.batch_size, self.samples))

    def entries(self, numbers: NDArray[np.int64]) -> tuple[list[int], list[int]]:
        """The pictures of entries, and which of their picture's repeats they are, from 0."""
        places = np.searchsorted(self.ends_P, numbers, side="right")
        starts = np.where(places > 0, self.ends_P[places - 1], 0)
        return self.pictures_P[places].tolist(), (numbers - starts).tolist()


@dataclass(frozen=True)
class Entry:
    """One sample of a global batch."""

    picture: int
    repeat: int
    slot: int
    """Place in the global batch."""


@dataclass(frozen=True)
class GlobalBatch:
    """All samples of one optimizer update."""

    step: int
    epoch: int
    dataset: int
    size: Size
    entries: list[Entry]


class Plan:
    """Any step's global batch, on demand.

    Args:
        buckets: not empty, each with at least one entry.
        seed: of the run.
    """

    def __init__(self, buckets: Sequence[Bucket], seed: int) -> None:
        assert buckets and all(bucket.samples for bucket in buckets)
        self.buckets = list(buckets)
        self.seed = seed
        self._last_batches = np.cumsum([bucket.batches for bucket in buckets])
        self._orders: dict[tuple[int, ...], Permutation] = {}

    @property
    def updates_per_epoch(self) -> int:
        """Optimizer updates in one epoch."""
        return int(self._last_batches[-1])

    def batch(self, step: int) -> GlobalBatch:
        """The global batch of an optimizer update, counted from 0 over the whole run."""
        epoch, place = divmod(step, self.updates_per_epoch)
        number = int(self._order(self.updates_per_epoch, "batches", epoch)[np.array([place])][0])
        index = int(np.searchsorted(self._last_batches, number, side="right"))
        bucket = self.buckets[index]
        start = (number - int(self._last_batches[index]) + bucket.batches) * bucket.batch_size
        places = np.arange(start, min(start + bucket.batch_size, bucket.samples))
        order = self._order(bucket.samples, "entries", epoch, bucket.dataset, *bucket.size)
        pairs = zip(*bucket.entries(order[places]))
        listed = [Entry(picture, repeat, slot) for slot, (picture, repeat) in enumerate(pairs)]
        return GlobalBatch(step, epoch, bucket.dataset, bucket.size, listed)

    def _order(self, size: int, stream: str, *index: int) -> Permutation:
        """The shuffle for that draw; the latest are kept."""
        if index not in self._orders:
            while len(self._orders) >= ORDERS_KEPT:
                self._orders.pop(next(iter(self._orders)))
            self._orders[index] = permutation(size, self.seed, stream, *index)
        return self._orders[index]


def share(entries: Sequence[T], rank: int, world: int, micro: int, accumulation: int) -> list[T]:
    """The part of a global batch that one process computes in one of its passes.

    Entries are dealt out in turn, so that parts of a short batch differ by one entry at most; some may be empty.
    """
    return list(entries[micro * world + rank :: world * accumulation])


def training_sizes(pictures: Pictures, datasets: Sequence[Dataset]) -> Sizes:
    """The size at which each picture is trained."""
    datasets_N, widths_N, heights_N = (
        pictures.of_subsets("dataset"),
        pictures.rows_N["width"],
        pictures.rows_N["height"],
    )
    sizes_N2 = np.zeros((len(pictures), 2), np.int64)
    for number, dataset in enumerate(datasets):
        config, buckets = dataset.buckets, bucket_sizes(dataset.buckets)
        mine = datasets_N == number
        made = sizes_of(widths_N[mine], heights_N[mine], partial(training_size, config=config, sizes=buckets))
        sizes_N2[mine] = np.array(made.different, dtype=np.int64).reshape(-1, 2)[made.numbers_N]
    return sizes_of(sizes_N2[:, 0], sizes_N2[:, 1], lambda size: size)


def bucketed(
    sizes: Sizes, datasets_N: NDArray[np.integer], repeats_N: NDArray[np.integer], batch_sizes: Sequence[int]
) -> list[Bucket]:
    """N pictures grouped by dataset and size, in that order.

    Args:
        sizes: training size of each picture.
        datasets_N: dataset of each picture.
        repeats_N: times each picture is shown in an epoch; those with 0 are left out.
        batch_sizes: global batch size of each dataset.
    """
    shown = np.flatnonzero(repeats_N > 0).astype(np.int32)
    groups = datasets_N[shown].astype(np.int64) * len(sizes.different) + sizes.numbers_N[shown]
    order = np.argsort(groups, kind="stable")
    members, starts = np.unique(groups[order], return_index=True)
    buckets = []
    for group, pictures_P in zip(members.tolist(), np.split(shown[order], starts[1:])):
        dataset, number = divmod(group, len(sizes.different))
        ends_P = np.cumsum(repeats_N[pictures_P], dtype=np.int64)
        buckets.append(
            Bucket(dataset, sizes.different[number], batch_sizes[dataset], pictures_P, ends_P, int(ends_P[-1]))
        )
    return buckets
