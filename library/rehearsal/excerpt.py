"""The part of a run's data that stands for all of it in a rehearsal: a batch of each large shape, and a batch to validate on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from library.data.cache.jobs import Job
from library.data.dataset import TrainingData, ValidationData
from library.data.plan import Bucket, Plan

MOST_SHAPES = 4
"""Shapes of batches of which steps are done, the largest first."""


@dataclass(frozen=True)
class Shape:
    """The updates of a run that are over pictures of one bucket."""

    bucket: Bucket
    """Cut to its fullest global batch."""
    updates: float
    """Of the run, so far as epochs are alike."""
    samples: float
    """That these updates are over: a bucket's last batch may be short."""

    @property
    def pixels(self) -> int:
        """Of the fullest batch."""
        return self.bucket.size[0] * self.bucket.size[1] * self.bucket.samples

    @property
    def full_updates(self) -> float:
        """As many fullest batches as have the samples."""
        return self.samples / self.bucket.samples

    @property
    def name(self) -> str:
        """512x768, 4 pictures."""
        count = self.bucket.samples
        return f"{self.bucket.size[0]}x{self.bucket.size[1]}, {count} picture{'s' if count > 1 else ''}"

    @property
    def pictures(self) -> list[int]:
        """Those of the fullest batch."""
        return self.bucket.entries(np.arange(self.bucket.samples))[0]

    def alone(self, data: TrainingData) -> TrainingData:
        """The data as if every batch were this one."""
        return replace(data, plan=Plan([self.bucket], data.seed))


def shapes_of(plan: Plan, updates: int) -> list[Shape]:
    """Every shape of a run with so many updates, the largest first."""
    epochs = updates / plan.updates_per_epoch
    shapes = [Shape(bucket.first_batch(), epochs * bucket.batches, epochs * bucket.samples) for bucket in plan.buckets]
    return sorted(shapes, key=lambda shape: -shape.pixels)


def excerpt(
    data: TrainingData,
    shapes: Iterable[Shape],
    validated: Sequence[int],
    not_cached: tuple[Sequence[Job], Sequence[str]],
    at_least: int,
) -> TrainingData:
    """The data with only what is needed: the caches are filled for that alone. Its plan is the whole run's.

    Args:
        shapes: those that are trained.
        validated: the held-out pictures that are measured.
        not_cached: pictures and captions that the caches lack.
        at_least: of the pictures that are not cached, how many to take, so that the time for the others can be told.
    """
    chosen = {picture for shape in shapes for picture in shape.pictures}
    chosen |= set(_to_be_cached(data, *not_cached, at_least))
    return replace(only(data, chosen), validation=_held_out(data.validation, validated))


def only(data: TrainingData, pictures: set[int]) -> TrainingData:
    """The data as if no other picture were ever shown."""
    shown = np.isin(np.arange(len(data.repeats)), list(pictures))
    return replace(data, repeats=np.where(shown, data.repeats, 0), validation=None)


def validation_batches(data: TrainingData, most: int | None) -> tuple[int, list[int]]:
    """How many batches a validation measures, and the held-out pictures in the one with the most pixels.

    Args:
        most: `max_validation_steps`.
    """
    if data.validation is None:
        return 0, []
    groups = data.validation.groups(data.material.datasets[0].buckets.train_batch_size)[:most]
    sizes = data.validation.material.sizes
    return len(groups), max(groups, key=lambda group: len(group) * sizes[group[0]][0] * sizes[group[0]][1])


def _to_be_cached(data: TrainingData, jobs: Sequence[Job], captions: Sequence[str], count: int) -> Iterator[int]:
    """Pictures whose latents are not cached, and one with a caption that is not."""
    yield from (job.index for job in jobs[:count] if job.material is data.material)
    wanted = set(captions)
    for index, repeats in enumerate(data.repeats.tolist() if wanted else ()):
        if repeats and not wanted.isdisjoint(only(data, {index}).captions_in_use()):
            yield index
            return


def _held_out(validation: ValidationData | None, chosen: Sequence[int]) -> ValidationData | None:
    if validation is None:
        return None
    material = validation.material
    return ValidationData(
        replace(
            material,
            pictures=material.pictures[np.array(chosen, dtype=np.int64)],
            sizes=material.sizes[np.array(chosen, dtype=np.int64)],
        )
    )
