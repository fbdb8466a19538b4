"""The caches of a rehearsed run: filled for what is rehearsed, and timed for the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from library.core.durations import duration
from library.data.cache.jobs import Job
from library.data.dataset import TrainingData
from library.models.base import DiffusionModel
from library.rehearsal.excerpt import Shape, excerpt
from library.rehearsal.parts import Part, Parts, timed
from library.training.data import cache_all, missing_in_caches
from library.training.run import Run


def _first_picture(model: DiffusionModel) -> Any:
    """The VAE's first use, which loads it."""
    return model.encode_images(torch.zeros(1, 3, 64, 64)).mean.cpu()


def _pixels(jobs: Sequence[Job]) -> float:
    return sum(job.placement.target[0] * job.placement.target[1] for job in jobs)


@dataclass(frozen=True)
class Kind:
    """What one encoder makes."""

    name: str
    place: int
    """In what `missing_in_caches` gives."""
    without: str
    """The setting that the other encoder's cache is for."""
    load: Callable[[DiffusionModel], object]
    """Uses the encoder for the first time, so that loading it is not taken for encoding."""
    cost: Callable[[Sequence[Any]], float]
    """What the time to encode things is in proportion to."""


PICTURES = Kind("picture", 0, "cache_text_encoder_outputs", _first_picture, _pixels)
CAPTIONS = Kind("caption", 1, "cache_latents", lambda model: model.encode_prompts([""]), len)


def cache_in_short(
    run: Run,
    model: DiffusionModel,
    data: TrainingData,
    shapes: Iterable[Shape],
    validated: Sequence[int],
    parts: Parts,
) -> TrainingData | None:
    """The data with caches that hold what the shapes and the validation need; None where they could not be filled.

    What is kept on disk stays there. The validation data are cut to what is needed.
    """
    config = run.config.data
    kinds = [
        kind for kind, on in ((PICTURES, config.cache_latents), (CAPTIONS, config.cache_text_encoder_outputs)) if on
    ]
    if not kinds:
        return replace(excerpt(data, shapes, validated, ([], []), 0), repeats=data.repeats)
    with parts.part("caching") as part:
        needed = excerpt(data, shapes, validated, missing_in_caches(run, data, model), config.vae_batch_size)
        for kind in kinds:
            needed = _cache(part, kind, run, model, data, needed)
        return replace(needed, repeats=data.repeats)
    return None


def _cache(
    part: Part, kind: Kind, run: Run, model: DiffusionModel, data: TrainingData, needed: TrainingData
) -> TrainingData:
    """The needed data with a cache of one kind, by the run's own code."""
    without: dict[str, Any] = {kind.without: False}
    alone = replace(run, config=replace(run.config, data=replace(run.config.data, **without)))
    missing = missing_in_caches(alone, needed, model)[kind.place]
    loading = timed(lambda: kind.load(model))[1] if missing else 0.0
    cached, seconds = timed(lambda: cache_all(alone, needed, model))
    left = missing_in_caches(alone, data, model)[kind.place]
    told = f"{len(missing)} {kind.name}(s) in {duration(seconds)}" if missing else f"every {kind.name} is cached"
    part.measured = ", ".join(filter(None, (part.measured, told)))
    if left and missing:
        part.over_the_run = ", ".join(filter(None, (part.over_the_run, f"{len(left)} {kind.name}(s)")))
        part.seconds += loading + seconds * kind.cost(left) / kind.cost(missing)
    return cached
