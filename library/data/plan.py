"""The order of training as a pure function of the seed: which pictures are in which step, and who computes which.

A step's global batch (batch size x processes x accumulation) comes from one bucket, so that all of it has one size. An epoch
shows every entry, a picture or one of its repeats, once: each bucket is shuffled and cut into global batches, and all
batches are shuffled. The last batch of a bucket may be short; it stays short, and its loss is averaged over the
samples it has, so no picture is shown twice or left out to fill it up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from library.core.randomness import torch_generator
from library.data.pictures.buckets import Size

T = TypeVar("T")

EPOCHS_KEPT = 2
"""Orders kept at a time: loaders that work ahead read the next epoch while the last of this one are trained."""


@dataclass(frozen=True)
class Bucket:
    """Entries of one dataset that are trained at one size."""

    dataset: int
    size: Size
    batch_size: int
    """Entries in a global batch: of all processes and accumulated passes."""
    pictures: Tensor
    """(n,) int64: the entry's picture."""
    repeats: Tensor
    """(n,) int64: which of the picture's repeats the entry is, from 0."""

    @property
    def batches(self) -> int:
        """Global batches in an epoch, the short one included."""
        return -(-len(self.pictures) // self.batch_size)


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
        assert buckets and all(len(bucket.pictures) for bucket in buckets)
        self.buckets = list(buckets)
        self.seed = seed
        counts = torch.tensor([bucket.batches for bucket in buckets])
        self._bucket_of_batch = torch.repeat_interleave(torch.arange(len(buckets)), counts)
        self._first_batch = counts.cumsum(0) - counts
        self._orders: dict[int, tuple[Tensor, dict[int, Tensor]]] = {}

    @property
    def updates_per_epoch(self) -> int:
        """Optimizer updates in one epoch."""
        return len(self._bucket_of_batch)

    def epoch_of(self, step: int) -> int:
        """Epoch of a step, both from 0."""
        return step // self.updates_per_epoch

    def batch(self, step: int) -> GlobalBatch:
        """The global batch of an optimizer update, counted from 0 over the whole run."""
        epoch, place = divmod(step, self.updates_per_epoch)
        batches, entries = self._order(epoch)
        number = int(batches[place])
        index = int(self._bucket_of_batch[number])
        bucket = self.buckets[index]
        if index not in entries:
            entries[index] = self._shuffled(bucket, epoch)
        start = (number - int(self._first_batch[index])) * bucket.batch_size
        chosen = entries[index][start : start + bucket.batch_size]
        pairs = zip(bucket.pictures[chosen].tolist(), bucket.repeats[chosen].tolist())
        listed = [Entry(picture, repeat, slot) for slot, (picture, repeat) in enumerate(pairs)]
        return GlobalBatch(step, epoch, bucket.dataset, bucket.size, listed)

    def _order(self, epoch: int) -> tuple[Tensor, dict[int, Tensor]]:
        """Order of the batches, and of the entries of the buckets met so far; the numbers of the latest epochs are kept."""
        if epoch not in self._orders:
            while len(self._orders) >= EPOCHS_KEPT:
                self._orders.pop(next(iter(self._orders)))
            generator = torch_generator(self.seed, "batches", epoch)
            self._orders[epoch] = torch.randperm(self.updates_per_epoch, generator=generator), {}
        return self._orders[epoch]

    def _shuffled(self, bucket: Bucket, epoch: int) -> Tensor:
        generator = torch_generator(self.seed, "entries", epoch, bucket.dataset, *bucket.size)
        return torch.randperm(len(bucket.pictures), generator=generator)


def share(entries: Sequence[T], rank: int, world: int, micro: int, accumulation: int) -> list[T]:
    """The part of a global batch that one process computes in one of its passes.

    Entries are dealt out in turn, so that parts of a short batch differ by one entry at most; some may be empty.
    """
    return list(entries[micro * world + rank :: world * accumulation])


def bucketed(
    sizes: Sequence[Size], datasets: Sequence[int], repeats: Sequence[int], batch_sizes: Sequence[int]
) -> list[Bucket]:
    """Pictures grouped by dataset and size, in that order.

    Args:
        sizes: training size of each picture.
        datasets: dataset of each picture.
        repeats: times each picture is shown in an epoch; those with 0 are left out.
        batch_sizes: global batch size of each dataset.
    """
    members: dict[tuple[int, Size], list[int]] = {}
    for picture, (dataset, size) in enumerate(zip(datasets, sizes)):
        if repeats[picture] > 0:
            members.setdefault((dataset, size), []).append(picture)
    return [
        _bucket(dataset, size, batch_sizes[dataset], pictures, [repeats[picture] for picture in pictures])
        for (dataset, size), pictures in sorted(members.items())
    ]


def _bucket(dataset: int, size: Size, batch_size: int, pictures: list[int], repeats: list[int]) -> Bucket:
    counts = torch.tensor(repeats)
    starts = counts.cumsum(0) - counts
    entries = torch.arange(int(counts.sum()))
    return Bucket(
        dataset,
        size,
        batch_size,
        torch.repeat_interleave(torch.tensor(pictures), counts),
        entries - torch.repeat_interleave(starts, counts),
    )
