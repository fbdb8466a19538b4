"""Whether a run will get through: its start as it is, the rest of it in short, and what both come to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from library.config.load import LoadedConfig
from library.core.memory import give_back_memory
from library.core.scratch import scratch_folder
from library.data.dataset import TrainingData
from library.inference.requests import SampleRequest
from library.models.base import DiffusionModel
from library.models.diffusers_classes import import_model_classes
from library.models.load import load_model
from library.models.pickles import without_pickles
from library.rehearsal.excerpt import MOST_SHAPES, shapes_of, validation_batches
from library.rehearsal.limits import judge_disk, judge_memory
from library.rehearsal.parts import Part, Parts
from library.rehearsal.short_caching import cache_in_short
from library.rehearsal.short_run import ShortRun
from library.rehearsal.verdict import Verdict
from library.training.data import build_data, look_through
from library.training.finish import begin_folder
from library.training.length import Length, plan_length
from library.training.needs.disk import Writing, planned, tell_disk
from library.training.needs.estimate import available, tell_memory
from library.training.needs.meta_run import MetaRun
from library.training.observers import sample_requests
from library.training.plugins import check_plugins, uses_third_parties
from library.training.run import Run, start_run
from library.training.trainer import prepare_base

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Start:
    """A run as it is when its start is through."""

    run: Run
    data: TrainingData
    length: Length
    requests: Sequence[SampleRequest]
    meta_run: MetaRun | None
    """The run on the meta device, where it could be gone through there."""
    there_is: int
    """Bytes of memory that the process could have when it began."""


def rehearse(
    loaded: LoadedConfig, join: Callable[[], Accelerator], started: float, price_per_hour: float | None = None
) -> Verdict:
    """Go through the run as `train_network.py` does.

    Args:
        join: gives the process's state, as in a run.
        started: when the command began, by `time.perf_counter`.

    Raises:
        UserError: what ends the run before it does anything, as the run itself would tell it.
    """
    parts = Parts()
    begun, model = _start(loaded, join, parts)
    parts.tried.insert(0, Part("start-up", seconds=time.perf_counter() - started))
    with scratch_folder(begun.run.folder, "rehearsal") as folder:
        short, others = _short_run(begun, model, folder, parts)
        continued = None if short is None else short.train(model)
        del model  # the resumed run loads its own
        give_back_memory()
        with parts.part("memory") as part:
            estimated = None if begun.meta_run is None else max(phase.total for phase in begun.meta_run.phases)
            judge_memory(part, begun.run.device, begun.there_is, estimated)
        if short is not None and continued is not None:
            short.resume(loaded, continued)
            with parts.part("disk") as part:
                judge_disk(part, begun.run, begun.length.span, continued.saved.sizes, others)
    span, limit = begun.length.span, begun.run.config.training.max_train_time
    return Verdict(parts.tried, time.time(), span.last_step - span.first_step, limit, price_per_hour)


def _start(loaded: LoadedConfig, join: Callable[[], Accelerator], parts: Parts) -> tuple[Start, DiffusionModel]:
    """What a run does before its first file, in the same order."""
    config = without_pickles(loaded.config)
    check_plugins(config)
    run = start_run(loaded, config, join())
    there_is = available(run.device)
    datasets, pictures = look_through(run)
    import_model_classes(whole=uses_third_parties(config))
    model = load_model(config.model, run.dtype, run.device)
    data = build_data(run, datasets, pictures, model)
    requests: list[SampleRequest] = []
    with parts.part("prompts to sample") as part:
        requests = sample_requests(run, data, model)
        part.measured = str(len(requests) or "none")
    length = plan_length(run, data.updates_per_epoch)
    meta_run = tell_memory(run, data, length, requests)
    with parts.part("room on the disks"):
        tell_disk(run, data, model, length.span, requests, meta_run)
    return Start(run, data, length, requests, meta_run, there_is), model


def _short_run(
    begun: Start, model: DiffusionModel, folder: Path, parts: Parts
) -> tuple[ShortRun | None, Sequence[Writing]]:
    """The run to be gone through, with its caches, and what it will write beside its LoRA files and states."""
    run, span = begun.run, begun.length.span
    config = replace(
        run.config,
        saving=replace(run.config.saving, output_dir=str(folder)),
        logging=replace(run.config.logging, logging_dir=None, progress=False),
    )
    inside = replace(run, config=config)
    begin_folder(inside)
    with parts.part("base model") as part:
        prepare_base(run, model)
    if part.fails:
        return None, []
    shapes = shapes_of(begun.data.plan, span.last_step - span.first_step)
    groups, largest = validation_batches(begun.data, run.config.validation.max_validation_steps)
    data = cache_in_short(run, model, begun.data, shapes[:MOST_SHAPES], largest, parts)
    if data is None:
        return None, []
    others: Sequence[Writing] = []
    if begun.meta_run is not None:
        _, *others = planned(run, begun.data, model, span, begun.requests, begun.meta_run)
    short = ShortRun(inside, data, begun.length, shapes, groups, begun.requests, parts, span.first_step, begun.meta_run)
    return short, others
