"""From a configuration and what a look at its data gave to the report. No model and no torch is needed for it."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from library.config.dataset import Dataset
from library.config.load import LoadedConfig
from library.config.schema import Config
from library.core.errors import UserError
from library.data.captions.pipeline import mentions, plain_caption, split
from library.data.checks.findings import Finding
from library.data.checks.sizes import share_lost
from library.data.index.pictures import Pictures
from library.data.index.sources import Survey
from library.data.pictures.buckets import Size, bucket_problems
from library.data.plan import Bucket, bucketed, training_sizes
from library.data.split import balanced_repeats, hold_out, subsets_that_train
from library.preflight.report import (
    BucketReport,
    CaptionsReport,
    DatasetReport,
    PicturesReport,
    PlanReport,
    Report,
    Setup,
    SubsetReport,
)

MOST_CAPTIONS = 20_000
"""Of which words and tags are counted; where there are more, of so many that lie evenly among them."""

FREQUENT_TAGS = 20

UNKNOWN_STRIDE = 1
"""Pixels a latent, while no model is read: what follows from the model's own is told when it is."""


@dataclass(frozen=True)
class Arranged:
    """Who trains, how often, and in which buckets."""

    training: Pictures
    held_out: Pictures
    repeats_N: NDArray[np.integer]
    """Times each training picture is shown in an epoch."""
    buckets: list[Bucket]


def gather(loaded: LoadedConfig, datasets: Sequence[Dataset], notices: Sequence[str], survey: Survey) -> Report:
    """The report, so far as it can be told without the model.

    Args:
        notices: of `resolve_datasets`.
    """
    config = loaded.config
    findings = [
        *(Finding("setting", "warning", "", text) for text in loaded.warnings),
        *(Finding("setting", "notice", "", text) for text in [*loaded.notices, *notices]),
        *survey.findings,
    ]
    arranged, mistakes = _arranged(config, datasets, survey)
    findings += [Finding("setting", "error", "", message) for message in mistakes]
    return Report(
        findings=list(dict.fromkeys(findings)),
        setup=_setup(loaded),
        datasets=_datasets(datasets, survey.pictures, arranged),
        pictures=_pictures(survey.pictures, arranged),
        captions=_captions(survey.pictures, datasets),
        buckets=_buckets(arranged) if arranged else [],
        plan=_plan(config, arranged) if arranged else None,
    )


def _setup(loaded: LoadedConfig) -> Setup:
    config = loaded.config
    return Setup(
        files=[str(file) for file in loaded.files],
        pretrained_model_name_or_path=config.model.pretrained_model_name_or_path,
        output_name=config.saving.output_name,
        network_module=config.network.network_module,
        network_dim=config.network.network_dim,
        network_alpha=config.network.network_alpha,
        optimizer_type=config.optimizer.optimizer_type,
        learning_rate=config.optimizer.learning_rate,
        lr_scheduler=config.schedule.lr_scheduler,
        lr_warmup_steps=config.schedule.lr_warmup_steps,
        mixed_precision=config.training.mixed_precision,
        strict=config.data.strict,
    )


def _arranged(config: Config, datasets: Sequence[Dataset], survey: Survey) -> tuple[Arranged | None, list[str]]:
    """As the run will arrange them; without a seed of the user's, which pictures are held out is drawn anew in each run."""
    problems = [problem for dataset in datasets for problem in bucket_problems(dataset.buckets, UNKNOWN_STRIDE)]
    trained_N = np.array(subsets_that_train(survey.pictures, datasets) or [False])[survey.pictures.rows_N["subset"]]
    if problems or not trained_N.any():  # that there is no picture to train is told already
        return None, problems
    try:
        training, held_out = hold_out(survey.pictures, datasets, config.training.seed or 0)
    except UserError as error:
        return None, error.messages
    repeats_N = balanced_repeats(training)
    accumulation = config.training.gradient_accumulation_steps
    batch_sizes = [dataset.buckets.train_batch_size * accumulation for dataset in datasets]
    buckets = bucketed(training_sizes(training, datasets), training.of_subsets("dataset"), repeats_N, batch_sizes)
    return Arranged(training, held_out, repeats_N, buckets), []


def _datasets(datasets: Sequence[Dataset], pictures: Pictures, arranged: Arranged | None) -> list[DatasetReport]:
    everything = _count_of_subsets(pictures, np.ones(len(pictures), np.int64))
    held_out: Counter[tuple[int, int]] = Counter()
    samples: Counter[tuple[int, int]] = Counter()
    if arranged:
        held_out = _count_of_subsets(arranged.held_out, np.ones(len(arranged.held_out), np.int64))
        samples = _count_of_subsets(arranged.training, arranged.repeats_N)
    return [
        DatasetReport(
            resolution=(dataset.buckets.resolution[0], dataset.buckets.resolution[1]),
            enable_bucket=dataset.buckets.enable_bucket,
            train_batch_size=dataset.buckets.train_batch_size,
            subsets=[
                SubsetReport(
                    where=subset.where,
                    folder=str(subset.metadata_file or subset.image_dir),
                    is_reg=subset.is_reg,
                    num_repeats=subset.num_repeats,
                    trigger_word=subset.trigger_word,
                    pictures=everything[number, index],
                    held_out=held_out[number, index],
                    samples=samples[number, index],
                )
                for index, subset in enumerate(dataset.subsets)
            ],
        )
        for number, dataset in enumerate(datasets)
    ]


def _count_of_subsets(pictures: Pictures, times_N: NDArray[np.integer]) -> Counter[tuple[int, int]]:
    """(dataset, subset) -> the sum over its pictures."""
    counts: Counter[tuple[int, int]] = Counter()
    sums = np.bincount(pictures.rows_N["subset"], weights=times_N, minlength=len(pictures.subsets))
    for facts, total in zip(pictures.subsets, sums.tolist()):
        counts[facts.dataset, facts.subset] += round(total)
    return counts


def _pictures(pictures: Pictures, arranged: Arranged | None) -> PicturesReport:
    rows_N = pictures.rows_N
    order = np.argsort(rows_N["width"].astype(np.int64) * rows_N["height"], kind="stable")

    def at(place: int) -> Size | None:
        return (int(rows_N["width"][order[place]]), int(rows_N["height"][order[place]])) if len(order) else None

    return PicturesReport(
        count=len(pictures),
        regularisation=int(pictures.of_subsets("is_reg").sum()) if len(pictures) else 0,
        held_out=len(arranged.held_out) if arranged else 0,
        smallest=at(0),
        median=at(len(order) // 2),
        largest=at(-1),
    )


def _captions(pictures: Pictures, datasets: Sequence[Dataset]) -> CaptionsReport:
    """What a caption says in training, with prefix and suffix; regularisation pictures are not asked."""
    trained = np.flatnonzero(~pictures.of_subsets("is_reg").astype(bool))
    chosen = trained[:: -(-len(trained) // MOST_CAPTIONS)] if len(trained) else trained
    tags: Counter[str] = Counter()
    words: list[int] = []
    empty = 0
    triggers: dict[str, list[bool]] = {}
    different: set[str] = set()
    for number in chosen.tolist():
        picture = pictures[number]
        subset = datasets[picture.dataset].subsets[picture.subset]
        caption = plain_caption(picture.caption, subset.captions)
        empty += not caption
        words.append(len(caption.split()))
        different.add(caption)
        # in order, so that those that are as frequent are too
        tags.update(list(dict.fromkeys(chain(*split(caption, subset.captions)))))
        if subset.trigger_word and subset.teaches:
            triggers.setdefault(subset.trigger_word, []).append(mentions(caption, subset.trigger_word))
    return CaptionsReport(
        count=len(trained),
        counted=len(chosen),
        empty=empty,
        different=len(different),
        median_words=round(statistics.median(words)) if words else 0,
        with_trigger={word: (sum(has), len(has)) for word, has in triggers.items()},
        different_tags=len(tags),
        frequent_tags=tags.most_common(FREQUENT_TAGS),
    )


def _buckets(arranged: Arranged) -> list[BucketReport]:
    rows_N = arranged.training.rows_N
    return [
        BucketReport(
            dataset=bucket.dataset,
            size=bucket.size,
            pictures=len(bucket.pictures_P),
            samples=bucket.samples,
            batches=bucket.batches,
            batch_size=bucket.batch_size,
            last_batch=bucket.samples - (bucket.batches - 1) * bucket.batch_size,
            cropped=_cropped(rows_N[bucket.pictures_P], bucket.size),
        )
        for bucket in arranged.buckets
    ]


def _cropped(rows_P: NDArray[np.void], size: Size) -> float:
    """Share of the pictures' area, once they cover the size, that lies outside of it."""
    originals = Counter(zip(rows_P["width"].tolist(), rows_P["height"].tolist()))
    return sum(times * share_lost(original, size) for original, times in originals.items()) / len(rows_P)


def _plan(config: Config, arranged: Arranged) -> PlanReport:
    training = config.training
    per_epoch = sum(bucket.batches for bucket in arranged.buckets)
    samples = sum(bucket.samples for bucket in arranged.buckets)
    steps = training.max_train_steps if training.max_train_epochs is None else training.max_train_epochs * per_epoch
    trained_N = ~arranged.training.of_subsets("is_reg").astype(bool)
    return PlanReport(
        steps=steps,
        epochs=steps / per_epoch,
        steps_per_epoch=per_epoch,
        samples_per_epoch=samples,
        showings=steps / per_epoch * float(arranged.repeats_N[trained_N].mean()),
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        processes=1,
        resume=config.saving.resume or "",
    )
