"""How long a run will take, estimated from what it computes and how fast the device is, or from an earlier run that did the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from library.data.cache.filling import CAPTIONS_AT_A_TIME
from library.data.dataset import TrainingData
from library.data.pictures.buckets import Size
from library.inference.requests import SampleRequest
from library.models.base import DiffusionModel
from library.training.data import missing_in_caches
from library.training.interval import times_sampled, times_saved, times_validated
from library.training.length import Length
from library.training.needs.blank import blank_batch, blank_pixels
from library.training.needs.meta_run import (
    CAPTIONS,
    DECODING,
    ENCODING,
    LATENTS,
    PREVIEW,
    RECORDED,
    STEP,
    MetaRun,
)
from library.training.needs.pace import Pace, noted_pace
from library.training.needs.speed import Machine, measured
from library.training.needs.work import Operation, Work
from library.training.run import Run

WRITTEN = 100e6
"""Bytes a second that a disk writes at least."""


@dataclass(frozen=True)
class Duration:
    """Seconds over the run, without its start."""

    steps: float
    caching: float
    """Of what is not cached yet."""
    sampling: float
    validation: float
    saving: float
    updates: int
    pace: Pace | None
    """What an earlier run measured; None: all is estimated."""

    @property
    def total(self) -> float:
        """Of all parts."""
        return self.steps + self.caching + self.sampling + self.validation + self.saving

    @property
    def per_step(self) -> float:
        """Of an update, in the mean over the run."""
        return self.steps / max(1, self.updates)


def estimate_time(
    run: Run,
    data: TrainingData,
    model: DiffusionModel,
    length: Length,
    requests: Sequence[SampleRequest],
    meta_run: MetaRun,
    save: int,
) -> Duration:
    """The duration of a run.

    Args:
        save: bytes that are written each time the run saves.
    """
    works = [phase.work for phase in meta_run.phases]
    estimate = _Estimate(run, length, meta_run, measured(run.device, run.dtype, works))
    pace = noted_pace(run, meta_run)
    slower = 1.0 if pace is None else pace.seconds / estimate.largest_update()
    span, saving = length.span, run.config.saving
    return Duration(
        steps=slower * estimate.steps(data),
        caching=slower * estimate.caching(run, data, model),
        sampling=slower * estimate.sampling(requests),
        validation=slower * estimate.validation(data),
        saving=times_saved(saving, span) * save / WRITTEN,
        updates=span.last_step - span.first_step,
        pace=pace,
    )


class _Estimate:
    """Seconds of a run's parts, from the run on the meta device and the machine's speeds."""

    def __init__(self, run: Run, length: Length, meta_run: MetaRun, machine: Machine) -> None:
        self.config, self.processes, self.span = run.config, run.processes, length.span
        self.meta_run, self.machine = meta_run, machine
        step = next(phase for phase in meta_run.phases if phase.name == STEP)
        self.recorded = RECORDED in step.parts
        self.demand = meta_run.demand
        self.area = self.demand.size[0] * self.demand.size[1]

    def steps(self, data: TrainingData) -> float:
        """All updates. What a pass takes lies on a straight line over its pixels, between the smallest and the largest."""
        shares = self.processes * self.span.accumulation
        passes = [
            (bucket.size, -(-min(bucket.batch_size, bucket.samples) // shares), bucket.samples)
            for bucket in data.plan.buckets
        ]
        a_pass = self._line([(size, count) for size, count, _ in passes])
        updates = self.span.last_step - self.span.first_step
        epochs = updates / data.plan.updates_per_epoch
        in_passes = sum(
            samples / (count * self.processes) * a_pass(size[0] * size[1] * count) for size, count, samples in passes
        )
        return epochs * in_passes + updates * self._update()

    def largest_update(self) -> float:
        """One update over full batches of the largest size."""
        return self.span.accumulation * self._pass(self.demand.size, self.demand.batch) + self._update()

    def caching(self, run: Run, data: TrainingData, model: DiffusionModel) -> float:
        """Encoding the pictures and captions that the caches lack."""
        jobs, captions = missing_in_caches(run, data, model)
        pixels = sum(job.placement.target[0] * job.placement.target[1] for job in jobs)
        at_a_time = self.config.data.text_encoder_batch_size or CAPTIONS_AT_A_TIME
        of_a_picture = self._phase(LATENTS) / (self.config.data.vae_batch_size * self.area)
        return pixels * of_a_picture + len(captions) * self._phase(CAPTIONS) / min(at_a_time, self.demand.captions)

    def sampling(self, requests: Sequence[SampleRequest]) -> float:
        """Every picture at every time, and once more without the network at the end."""
        if not requests:
            return 0.0
        width, height = self.demand.preview_size
        pixels = self.demand.previews * width * height
        denoised = sum(request.width * request.height * request.steps for request in requests) / pixels
        decoded = sum(request.width * request.height for request in requests) / pixels
        times = times_sampled(self.config.sampling, self.span) + 1
        return times * (denoised * self._phase(PREVIEW) + decoded * self._phase(DECODING))

    def validation(self, data: TrainingData) -> float:
        """A prediction for each held-out picture at each timestep."""
        held = data.validation
        if held is None:
            return 0.0
        config = self.config.validation
        batches = held.groups(data.material.datasets[0].buckets.train_batch_size)[: config.max_validation_steps]
        sizes = [held.material.sizes[index] for batch in batches for index in batch]
        pixels = sum(int(width) * int(height) for width, height in sizes)
        share = pixels / (self.area * self.demand.batch) / self.processes
        times = times_validated(config, self.span) * len(config.validation_timesteps)
        return times * share * self.machine.seconds(self.meta_run.tallied(self._predict))

    def _line(self, passes: Sequence[tuple[Size, int]]) -> Callable[[int], float]:
        """(pixels) -> seconds of a pass."""
        size, count = min(passes, key=lambda each: each[0][0] * each[0][1] * each[1])
        most, longest = self.area * self.demand.batch, self._pass(self.demand.size, self.demand.batch)
        least = size[0] * size[1] * count
        if least == most:
            return lambda pixels: longest
        shortest = self._pass(size, count)
        return lambda pixels: shortest + (longest - shortest) * (pixels - least) / (most - least)

    def _pass(self, size: Size, count: int) -> float:
        """Forwards and backwards; the prior is predicted where one of the samples keeps it."""
        rate = self.config.loss.prior_prediction_rate
        keeps = 1 - (1 - rate) ** count
        rates = [(rate, keeps), (0.0, 1 - keeps)] if rate else [(0.0, 1.0)]
        return sum(share * self._pass_at(each, size, count) for each, share in rates if share)

    def _pass_at(self, prior_prediction_rate: float, size: Size, count: int) -> float:
        known = (self.config.loss.prior_prediction_rate, self.demand.size, self.demand.batch)
        if (prior_prediction_rate, size, count) == known:
            return self.machine.seconds(self.meta_run.work_of(STEP), self.recorded) + self._phase(ENCODING)
        loss = replace(self.config.loss, prior_prediction_rate=prior_prediction_rate)
        trainer, model = self.meta_run.trainer, self.meta_run.trainer.model
        batch = blank_batch(replace(self.config, loss=loss), model, size, count, self.meta_run.conditioning)
        trainer.network.train()
        work = self.meta_run.tallied(lambda: trainer.accumulate(batch))
        encoded = self.meta_run.work_of(ENCODING) and self.meta_run.tallied(
            lambda: model.encode_images(blank_pixels(count, size))
        )
        return self.machine.seconds(work, self.recorded) + self.machine.seconds(encoded)

    def _predict(self) -> None:
        trainer = self.meta_run.trainer
        batch = blank_batch(self.config, trainer.model, self.demand.size, self.demand.batch, self.meta_run.conditioning)
        trainer.network.train(False)
        with torch.no_grad():
            batch = trainer.with_tokens(batch)
            trainer.objective.predict(batch, trainer.conditioning(batch))

    def _update(self) -> float:
        """The optimizer reads and writes every weight, its gradient and what it keeps of both."""
        values = sum(group.values.numel() for group in self.meta_run.trainer.groups)
        moved = round(2 * values * (4 + 4 + self.meta_run.kept))
        work: Work = Counter({Operation("other", torch.float32, 0, moved): 1})
        return self.machine.seconds(work)

    def _phase(self, name: str) -> float:
        return self.machine.seconds(self.meta_run.work_of(name))
