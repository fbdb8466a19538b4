"""The room on disks that a run will need, told before its model is loaded."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from library.config.schema import SavingConfig
from library.core.disk import amount, existing, free_space
from library.core.errors import Exit, UserError
from library.data.cache.keys import cache_folder
from library.data.dataset import TrainingData
from library.data.summary import summary
from library.inference.requests import SampleRequest
from library.models.base import DiffusionModel
from library.training.data import missing_in_caches
from library.training.interval import Interval, save_interval, times_sampled
from library.training.loop import Span
from library.training.needs.meta_run import MetaRun
from library.training.observers import log_folder
from library.training.run import Run

BYTES = {None: 4, "float": 4, "fp16": 2, "bf16": 2}
"""Of a saved value, by `save_precision`."""

ENTRY = 210
"""Bytes of a LoRA file's header for each trained tensor, with its half of an alpha's."""
METADATA = 4000
"""Bytes of what a LoRA file says of itself, beside its data."""
CACHE_ENTRY = 210
"""Bytes that an entry of a cache takes beside its values."""
PICTURE = 1.5
"""Bytes that PNG needs for a pixel of a picture, about; noise takes twice as much."""
LOGGED = 600
"""Bytes of a step in the log."""


@dataclass(frozen=True)
class Kept:
    """How many files there will be at the fullest moment."""

    loras: int
    states: int


@dataclass(frozen=True)
class Writing:
    """What a run will write in one folder."""

    what: str
    folder: Path
    total: int
    """Bytes that will be there at the fullest moment, beside what is there now."""
    least: int
    """Bytes without which nothing of it is of use."""
    where: str
    """The setting that names the folder."""


def tell_disk(
    run: Run,
    data: TrainingData,
    model: DiffusionModel,
    span: Span,
    requests: Sequence[SampleRequest],
    meta_run: MetaRun | None,
) -> None:
    """Say how much room on disks the run will need, and where that is more than there is, what would lower it.

    Args:
        meta_run: None: nothing is known of this network's size, and nothing is told.

    Raises:
        UserError: a folder cannot be written, or has not even room for the caches and one save.
    """
    if not run.is_main or meta_run is None:
        return
    told, *warnings = on_disks(run, planned(run, data, model, span, requests, meta_run))
    run.say(f"disk: {told}")
    run.tell_all([f"warning: {warning}" for warning in warnings])


def on_disks(run: Run, writings: Sequence[Writing]) -> list[str]:
    """What will be written and what is free; then what is wrong with that, and what would lower it.

    Raises:
        UserError: as `tell_disk`.
    """
    disks: dict[int, list[Writing]] = defaultdict(list)
    for each in writings:
        found = existing(each.folder)
        if not os.access(found, os.W_OK):
            raise UserError(f"{each.where}: {found} cannot be written. Change its rights, or name another folder.")
        disks[found.stat().st_dev].append(each)
    rooms = [(members, free_space(members[0].folder)) for members in disks.values()]
    listed = ", ".join(f"{amount(each.total)} of {each.what}" for each in writings if each.total)
    places = [
        f"{amount(room)} free{f' for {members[0].where}' if len(rooms) > 1 else ''}"
        for members, room in rooms
        if room is not None
    ]
    compared = [_compared(run, members, room) for members, room in rooms if room is not None]
    return ["; ".join([listed or "nothing to write", *places]), *filter(None, compared)]


def planned(
    run: Run,
    data: TrainingData,
    model: DiffusionModel,
    span: Span,
    requests: Sequence[SampleRequest],
    meta_run: MetaRun,
) -> list[Writing]:
    """What the run will write, by folder."""
    lora, state = _size_of_lora(run, data, meta_run), _size_of_state(run, meta_run)
    kept = kept_files(run.config.saving, span)
    saved = kept.loras * lora + kept.states * state
    one_save = lora + (state if kept.states else 0)
    pixels = sum(each.width * each.height for each in requests)
    painted = round(times_sampled(run.config.sampling, span) * pixels * PICTURE)
    logs = run.config.logging.log_with == "tensorboard"
    logged = (span.last_step - span.first_step) // run.config.logging.log_every_n_steps * LOGGED + painted
    cached = _size_of_caches(run, data, model, meta_run)
    return [
        Writing("LoRA files and states" if kept.states else "LoRA files", run.folder, saved, one_save, "output_dir"),
        Writing("sample pictures", run.folder, painted, 0, "output_dir"),
        Writing("logs", log_folder(run), logged if logs else 0, 0, "logging_dir"),
        *([Writing("caches", cache_folder(run.config.data.cache_dir), cached, cached, "cache_dir")] if cached else []),
    ]


def kept_files(saving: SavingConfig, span: Span) -> Kept:
    """LoRA files and states of the run at its fullest moment; the final ones are written before any former ones go."""
    interval = save_interval(saving, span)
    loras = states = 0
    for due, keep, keep_states in (
        (
            Interval(epochs=interval.epochs).times(span),
            saving.save_last_n_epochs,
            saving.save_last_n_epochs_state,
        ),
        (
            Interval(interval.steps).times(span),
            _in_last(saving.save_last_n_steps, interval.steps),
            _in_last(saving.save_last_n_steps_state, interval.steps),
        ),
    ):
        loras += due if keep is None else min(due, keep)
        if saving.save_state:
            limit = keep_states or keep
            states += due if limit is None else min(due, limit)
    ends_with_state = saving.save_state or saving.save_state_on_train_end
    return Kept(loras + 1, states + ends_with_state)


def _in_last(steps: int | None, every: int | None) -> int | None:
    """Saves that the last so many steps keep: the ends of the span count both."""
    return None if steps is None or every is None else steps // every + 1


def _size_of_lora(run: Run, data: TrainingData, meta_run: MetaRun) -> int:
    tensors = [tensor for group in meta_run.trainer.groups for tensor in group.parameters]
    values = sum(tensor.numel() for tensor in tensors)
    said = 0 if run.config.saving.no_metadata else METADATA + len(json.dumps(summary(data)))
    return values * BYTES[run.config.saving.save_precision] + len(tensors) * ENTRY + said


def _size_of_state(run: Run, meta_run: MetaRun) -> int:
    values = sum(group.values.numel() for group in meta_run.trainer.groups)
    average = 4 if run.config.training.ema_decay is not None else 0
    return round(values * (4 + meta_run.kept + average)) + len(json.dumps(run.settings, indent=1)) + METADATA


def _size_of_caches(run: Run, data: TrainingData, model: DiffusionModel, meta_run: MetaRun) -> int:
    """Of what is not cached yet: mean and deviation of latents and masks in fp32, captions in the encoders' type."""
    pictures, captions = missing_in_caches(run, data, model)
    size, config = 0, run.config.data
    for job in pictures if config.cache_latents_to_disk else ():
        width, height = (side // model.latents.stride for side in job.placement.target)
        masked = job.picture.mask_path is not None or job.material.subset(job.picture).images.alpha_mask
        size += width * height * (2 * model.latents.channels + masked) * 4 + CACHE_ENTRY
    caption = sum(tensor[0].nbytes for tensor in (meta_run.conditioning or {}).values()) + CACHE_ENTRY
    return size + len(captions) * caption * config.cache_text_encoder_outputs_to_disk


def _compared(run: Run, writings: Sequence[Writing], room: int) -> str:
    """What is wrong with what is written on one disk; empty where it has room."""
    least, total = sum(each.least for each in writings), sum(each.total for each in writings)
    folders = ", ".join(dict.fromkeys(f"{each.where} {each.folder}" for each in writings if each.total))
    if least > room:
        raise UserError(
            f"the disk is too full for this run: its caches and a single save take {amount(least)}, and {amount(room)} are free "
            f"({folders}). Free some space, or name a folder on another disk. {_advice(run)}".strip(),
            Exit.DISK_FULL,
        )
    if total <= room:
        return ""
    return (
        f"the disk will be full before the run is over: it takes {amount(total)}, and {amount(room)} are free "
        f"({folders}). {_advice(run)}".strip()
    )


def _advice(run: Run) -> str:
    """Settings that would make the run write less."""
    saving, data = run.config.saving, run.config.data
    by_steps = saving.save_every_n_steps is not None
    keep, keep_states = (
        (saving.save_last_n_steps, saving.save_last_n_steps_state)
        if by_steps
        else (saving.save_last_n_epochs, saving.save_last_n_epochs_state)
    )
    unit = "steps" if by_steps else "epochs"
    repeats = by_steps or saving.save_every_n_epochs is not None or saving.save_n_epoch_ratio is not None
    found = []
    if repeats and keep is None:
        found.append(f"save_last_n_{unit} (keep the last LoRA files only)")
    if repeats and saving.save_state and (keep_states or keep) is None:
        found.append(f"save_last_n_{unit}_state (keep the last states only)")
    if repeats:
        found.append(f"a larger save_every_n_{unit}")
    if saving.save_precision in (None, "float"):
        found.append('save_precision = "fp16" (half the size)')
    if data.cache_latents_to_disk or data.cache_text_encoder_outputs_to_disk:
        found.append("caches in memory (cache_latents instead of cache_latents_to_disk)")
    return f"Less is written with {'; or '.join(found)}." if found else ""
