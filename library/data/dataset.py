"""The training data as the trainer reads them: any step's share of this process, and the held-out pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch.utils.data
from numpy.typing import NDArray

from library.config.dataset import Dataset, Subset
from library.core.errors import UserError, raise_all
from library.core.hashing import digest, digest_of_many
from library.core.randomness import python_random
from library.data.captions.pipeline import Moment, mentions, plain_caption, process_caption, variants, without_trigger
from library.data.examples import Encoded, Material, Role, drawn_placement, example
from library.data.index.pictures import Picture, Pictures
from library.data.pictures.buckets import bucket_problems
from library.data.pictures.placement import centred
from library.data.plan import Entry, GlobalBatch, Plan, bucketed, share, training_sizes
from library.data.split import balanced_repeats, hold_out
from library.data.types import Example, MicroBatch

EMPTY_PRIOR_SHARE = 0.25
"""Share of the prior predictions that are of the empty caption, the unconditional prediction."""

StepKey = tuple[int, int]
"""(optimizer update, which of its accumulated passes), both from 0."""

FINGERPRINT = "3"
"""Raised when `TrainingData.fingerprint` changes its meaning, so that no former one is taken for a new one."""


@dataclass(frozen=True)
class Prior:
    """How much is done to leave everything else as it was; fields as in the configuration's loss group."""

    prior_loss_weight: float = 1.0
    prior_prediction_rate: float = 0.0
    prior_prediction_weight: float = 1.0


@dataclass(frozen=True)
class StepKeys:
    """Sampler for a DataLoader: the keys of the updates from `first` up to, not including, `last`."""

    first: int
    last: int
    accumulation: int

    def __iter__(self) -> Iterator[StepKey]:
        return ((step, micro) for step in range(self.first, self.last) for micro in range(self.accumulation))

    def __len__(self) -> int:
        return max(0, self.last - self.first) * self.accumulation


@dataclass(frozen=True)
class ValidationData:
    """Held-out pictures, cut at the centre, with plain captions: always the same."""

    material: Material

    def __len__(self) -> int:
        return len(self.material.pictures)

    def batches(self, batch_size: int) -> Iterator[list[Example]]:
        """Lists of examples of one size; an example's position is (0, its number among the held-out pictures)."""
        for group in self.groups(batch_size):
            yield [self._example(index) for index in group]

    def groups(self, batch_size: int) -> list[list[int]]:
        """The numbers of the pictures in each batch."""
        sizes = self.material.sizes
        found: list[list[int]] = []
        for index in sorted(range(len(self)), key=lambda index: (sizes[index], index)):
            if not found or len(found[-1]) == batch_size or sizes[found[-1][0]] != sizes[index]:
                found.append([])
            found[-1].append(index)
        return found

    def _example(self, index: int) -> Example:
        picture = self.material.pictures[index]
        placement = centred(picture.size, self.material.sizes[index])
        caption = plain_caption(picture.caption, self.material.subset(picture).captions)
        return example(self.material, index, placement, caption, Role(position=(0, index)))


@dataclass(frozen=True, eq=False)
class TrainingData(torch.utils.data.Dataset[MicroBatch]):
    """Map-style dataset from (step, pass) to this process's micro-batch; safe to send to worker processes.

        DataLoader(data, sampler=data.step_keys(first, last), batch_size=None, num_workers=n)

    What a key gives depends on the key, the seed and the data alone: a resumed run starts at another `first`.
    """

    material: Material
    repeats: NDArray[np.int32]
    """Times each picture is shown in an epoch; 0 for regularisation pictures left out."""
    plan: Plan
    seed: int
    rank: int
    processes: int
    accumulation: int
    prior: Prior
    max_train_steps: int
    """Length of the run, of which a warm-up of tags may be a share."""
    validation: ValidationData | None

    @property
    def updates_per_epoch(self) -> int:
        """Optimizer updates in one epoch."""
        return self.plan.updates_per_epoch

    def step_keys(self, first_step: int, last_step: int) -> StepKeys:
        """The sampler for updates `first_step` up to, not including, `last_step`."""
        return StepKeys(first_step, last_step, self.accumulation)

    def for_run_of(self, max_train_steps: int) -> TrainingData:
        """The same data for a run of that length."""
        return replace(self, max_train_steps=max_train_steps)

    def with_latents(self, encoded: Encoded) -> TrainingData:
        """The same data, read from cached latents."""
        return self._with(lambda material: replace(material, latents=encoded))

    def with_texts(self, encoded: Encoded) -> TrainingData:
        """The same data, with cached conditioning."""
        return self._with(lambda material: replace(material, texts=encoded))

    def _with(self, change: Callable[[Material], Material]) -> TrainingData:
        held_out = None if self.validation is None else ValidationData(change(self.validation.material))
        return replace(self, material=change(self.material), validation=held_out)

    def __getitem__(self, key: StepKey) -> MicroBatch:
        step, micro = key
        batch = self.plan.batch(step)
        mine = share(batch.entries, self.rank, self.processes, micro, self.accumulation)
        return MicroBatch([self._example(entry, batch) for entry in mine], step, micro, batch.epoch, len(batch.entries))

    def _example(self, entry: Entry, batch: GlobalBatch) -> Example:
        picture = self.material.pictures[entry.picture]
        subset = self.material.subset(picture)
        showing = (batch.epoch, entry.picture, entry.repeat)
        image_rng = python_random(self.seed, "picture", *showing)
        placement = drawn_placement(picture, batch.size, subset.images, image_rng)
        moment = Moment(batch.epoch, batch.step, self.max_train_steps)
        caption = process_caption(
            picture.caption, subset.captions, python_random(self.seed, "caption", *showing), moment
        )
        role = self._role(picture, caption, (batch.step, entry.slot))
        if role.keeps_prior and not subset.keeps_output:
            caption = self._prior_caption(caption, subset, role.position)
        return example(self.material, entry.picture, placement, caption, role, image_rng)

    def _role(self, picture: Picture, caption: str, position: tuple[int, int]) -> Role:
        weight = self.prior.prior_loss_weight if picture.is_reg else 1.0
        if self.material.subset(picture).keeps_output:
            return Role(position, weight, keeps_prior=True)
        if picture.is_reg:
            return Role(position, weight)
        rate = self.prior.prior_prediction_rate
        drawn = rate > 0 and python_random(self.seed, "prior_prediction", *position).random() < rate
        # A caption that never had the trigger stands for the picture itself: to keep it as it was would unteach it.
        if drawn and (not caption or mentions(caption, self.material.subset(picture).trigger_word)):
            return Role(position, self.prior.prior_prediction_weight, keeps_prior=True)
        return Role(position)

    def _prior_caption(self, caption: str, subset: Subset, position: tuple[int, int]) -> str:
        """The caption without its trigger, or an empty one: classifier-free guidance multiplies a drift of that one."""
        if python_random(self.seed, "prior_prediction caption", *position).random() < EMPTY_PRIOR_SHARE:
            return ""
        return without_trigger(caption, subset.trigger_word, subset.class_word, subset.captions.caption_separator)

    def captions_in_use(self) -> list[str]:
        """Every caption that the run can ask the text encoders for, sorted.

        Raises:
            UserError: they are too many to list; names the options that vary them.
        """
        found: set[str] = set()
        for index, picture in enumerate(self.material.pictures):
            if self.repeats[index]:
                found |= self._captions_of(picture)
        if self.validation is not None:
            material = self.validation.material
            found |= {plain_caption(p.caption, material.subset(p).captions) for p in material.pictures}
        return sorted(found)

    def _captions_of(self, picture: Picture) -> set[str]:
        subset = self.material.subset(picture)
        listed = variants(picture.caption, subset.captions)
        if listed is None:
            varying = ("shuffle_caption", "caption_tag_dropout_rate", "enable_wildcard", "token_warmup_step")
            names = [name for name in varying if getattr(subset.captions, name)]
            raise UserError(
                f"cache_text_encoder_outputs: {', '.join(names)} of {subset.where} makes too many different captions of "
                f"{picture.path} to encode them all. Turn one of them off."
            )
        if not subset.teaches or self.prior.prior_prediction_rate <= 0:
            return set(listed)
        separator = subset.captions.caption_separator
        return {
            "",
            *listed,
            *(without_trigger(text, subset.trigger_word, subset.class_word, separator) for text in listed),
        }

    def fingerprint(self) -> str:
        """Hash of what decides which samples a step has: pictures, captions, how both vary, repeats, sizes, seed and batches."""
        options = [
            f"{subset.captions} {replace(subset.images, conditioning_data_dir=None)} {subset.trigger_word} {subset.class_word}"
            + " keeps_output" * subset.keeps_output
            for dataset in self.material.datasets
            for subset in dataset.subsets
        ]
        batches = [str(bucket.batch_size) for bucket in self.plan.buckets]
        facts = (
            f"{p.content} {p.mask_content} {p.dataset} {p.subset} {p.is_reg} {size} {repeats} {p.caption}"
            for p, size, repeats in zip(self.material.pictures, self.material.sizes, self.repeats.tolist())
        )
        return digest("data", FINGERPRINT, str(self.seed), *batches, *options, digest_of_many(facts))


def build_training_data(
    datasets: Sequence[Dataset],
    pictures: Pictures,
    *,
    seed: int,
    stride: int,
    rank: int = 0,
    processes: int = 1,
    accumulation: int = 1,
    prior: Prior | None = None,
    max_train_steps: int = 1,
) -> TrainingData:
    """The training data of one process, without caches.

    Args:
        datasets: the resolved datasets.
        pictures: what `preflight` found good.
        seed: of the run.
        stride: pixels per latent of the model.
        rank, processes: this process and the number of all.
        accumulation: gradient_accumulation_steps.
        prior: prior preservation; None: sd-scripts' defaults, without prior prediction.
        max_train_steps: length of the run, see `TrainingData.for_run_of`.

    Raises:
        UserError: sizes that the model cannot have, a validation split that cannot be made, nothing to train.
    """
    prior = prior or Prior()
    raise_all([problem for dataset in datasets for problem in bucket_problems(dataset.buckets, stride)])
    _require_triggers(datasets, prior)
    training, held_out = hold_out(pictures, datasets, seed)
    material = _material(datasets, training, stride)
    repeats = balanced_repeats(training)
    batch_sizes = [dataset.buckets.train_batch_size * processes * accumulation for dataset in datasets]
    buckets = bucketed(material.sizes, training.of_subsets("dataset"), repeats, batch_sizes)
    validation = ValidationData(_material(datasets, held_out, stride)) if len(held_out) else None
    return TrainingData(
        material, repeats, Plan(buckets, seed), seed, rank, processes, accumulation, prior, max_train_steps, validation
    )


def _material(datasets: Sequence[Dataset], pictures: Pictures, stride: int) -> Material:
    return Material(datasets, pictures, training_sizes(pictures, datasets), stride)


def _require_triggers(datasets: Sequence[Dataset], prior: Prior) -> None:
    """Without a trigger to replace, prior prediction would teach every caption to change nothing."""
    if prior.prior_prediction_rate <= 0:
        return
    raise_all(
        [
            f"prior_prediction_rate {prior.prior_prediction_rate}: needs trigger_word, which is not set for {subset.where}."
            for dataset in datasets
            for subset in dataset.subsets
            if subset.teaches and not subset.trigger_word
        ]
    )
