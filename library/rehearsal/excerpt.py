"""The part of a run's data that stands for all of it in a rehearsal: a batch of each large shape, and a batch to validate on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from library.data.cache.filling import Job
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
        return self.bucket.size[0] * self.bucket.size[1] * len(self.bucket.pictures)

    @property
    def full_updates(self) -> float:
        """As many fullest batches as have the samples."""
        return self.samples / len(self.bucket.pictures)

    @property
    def name(self) -> str:
        """512x768, 4 pictures."""
        count = len(self.bucket.pictures)
        return f"{self.bucket.size[0]}x{self.bucket.size[1]}, {count} picture{'s' if count > 1 else ''}"

    def alone(self, data: TrainingData) -> TrainingData:
        """The data as if every batch were this one."""
        return replace(data, plan=Plan([self.bucket], data.seed))


def shapes_of(plan: Plan, updates: int) -> list[Shape]:
    """Every shape of a run with so many updates, the largest first."""
    epochs = updates / plan.updates_per_epoch
    shapes = [
        Shape(_fullest_batch(bucket), epochs * bucket.batches, epochs * len(bucket.pictures)) for bucket in plan.buckets
    ]
    return sorted(shapes, key=lambda shape: -shape.pixels)


def _fullest_batch(bucket: Bucket) -> Bucket:
    count = min(bucket.batch_size, len(bucket.pictures))
    return replace(bucket, pictures=bucket.pictures[:count], repeats=bucket.repeats[:count])


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
    chosen = {int(index) for shape in shapes for index in shape.bucket.pictures}
    chosen |= set(_to_be_cached(data, *not_cached, at_least))
    return replace(only(data, chosen), validation=_held_out(data.validation, validated))


def only(data: TrainingData, pictures: set[int]) -> TrainingData:
    """The data as if no other picture were ever shown."""
    repeats = [shown if index in pictures else 0 for index, shown in enumerate(data.repeats)]
    return replace(data, repeats=repeats, validation=None)


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
    lacking = {id(job.picture) for job in jobs[:count]}
    yield from (index for index, picture in enumerate(data.material.pictures) if id(picture) in lacking)
    wanted = set(captions)
    for index, repeats in enumerate(data.repeats if wanted else ()):
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
            pictures=[material.pictures[index] for index in chosen],
            sizes=[material.sizes[index] for index in chosen],
        )
    )
