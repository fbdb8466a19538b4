"""What a run will take: memory, disk, time and the learning rates, told without training and without reading weights."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import TypeVar

from library.config.dataset import Dataset
from library.config.load import LoadedConfig
from library.core.durations import duration
from library.core.errors import UserError
from library.core.terminal import harmless
from library.data.dataset import TrainingData
from library.data.index.pictures import Pictures
from library.inference.requests import SampleRequest
from library.models.base import DiffusionModel
from library.models.diffusers_classes import import_model_classes
from library.models.load import load_model
from library.models.pickles import without_pickles
from library.optim.optimizers import warn_about_schedule
from library.optim.schedules import build_schedule, steps_of
from library.training.data import build_data
from library.training.length import Length, plan_length
from library.training.needs.disk import Writing, on_disks, planned
from library.training.needs.estimate import GIB, advice, available, described, estimate
from library.training.needs.meta_run import MetaRun, Phase, demand_of
from library.training.needs.time import Duration, estimate_time
from library.training.observers import sample_requests
from library.training.plugins import check_plugins, uses_third_parties
from library.training.processes.peers import ending_together
from library.training.run import Run, start_run

T = TypeVar("T")

POINTS = 60
"""Of the learning-rate curve."""
LONG_WARMUP = 0.5
"""Share of the run from which a warm-up is worth a word."""


@dataclass(frozen=True)
class Estimates:
    """Of one run, in one process; None where it is not known."""

    peak_memory_bytes: int | None = None
    memory_text: str = ""
    free_memory_bytes: int | None = None
    """That the run could have now, on its device."""
    disk_bytes: int | None = None
    """Beside what is there already."""
    disk_text: str = ""
    seconds_per_step: float | None = None
    """In the mean over the run."""
    seconds: float | None = None
    """Of the whole run, without its start."""
    how_time: str = ""
    """Where the figure is from, and what is in it."""
    learning_rates: list[tuple[int, float]] = field(default_factory=list)
    """(step, counted from 1 as in the log, rate), of the group with the most weights."""
    schedule_text: str = ""
    problems: list[str] = field(default_factory=list)
    """Why something is not known."""


def estimate_run(loaded: LoadedConfig, datasets: Sequence[Dataset], pictures: Pictures) -> Estimates:
    """Estimate what can be; nothing is written but into the caches, as the fingerprint of a large model.

    Args:
        datasets: resolved, as the run will use them.
        pictures: that can be used.

    Raises:
        UserError: the run would end with it at its start.
    """
    if not loaded.config.model.pretrained_model_name_or_path:
        return Estimates(problems=["no base model is named: set pretrained_model_name_or_path."])
    config = without_pickles(loaded.config)
    check_plugins(config)
    with (
        redirect_stdout(io.StringIO()),
        ending_together() as join,
    ):  # what a run says at its start is told by the report
        run = start_run(loaded, config, join())
        import_model_classes(whole=uses_third_parties(config))
        model = load_model(config.model, run.dtype, run.device)
        data = build_data(run, list(datasets), pictures, model)
        requests = sample_requests(run, data, model)
        length = plan_length(run, data.updates_per_epoch)
    return _Parts(run, data, model, length, requests).estimates()


class _Parts:
    """The estimates of a run that is ready to begin, each where the ones it needs are known."""

    def __init__(
        self, run: Run, data: TrainingData, model: DiffusionModel, length: Length, requests: Sequence[SampleRequest]
    ) -> None:
        self.run, self.data, self.model, self.length, self.requests = run, data, model, length, requests
        self.problems: list[str] = []

    def estimates(self) -> Estimates:
        """All of them."""
        found = self._tried("memory, disk and time", self._peak)
        if found is None:
            return Estimates(problems=self.problems)
        peak, meta_run = found
        writings = self._tried("the room on disks", lambda: self._writings(meta_run))
        duration = None if writings is None else self._tried("the time", lambda: self._duration(meta_run, writings[0]))
        return Estimates(
            peak_memory_bytes=peak.total,
            memory_text=self._memory_text(peak, meta_run),
            free_memory_bytes=available(self.run.device),
            disk_bytes=None if writings is None else sum(each.total for each in writings),
            disk_text="" if writings is None else ". ".join(on_disks(self.run, writings)),
            seconds_per_step=None if duration is None else duration.per_step,
            seconds=None if duration is None else duration.total,
            how_time="" if duration is None else how_known(duration),
            learning_rates=learning_rates(meta_run, self.length),
            schedule_text=self._schedule_text(meta_run),
            problems=self.problems,
        )

    def _tried(self, what: str, work: Callable[[], T]) -> T | None:
        """What the work gives; somebody's own network or optimizer need not work without numbers."""
        try:
            return work()
        except UserError:
            raise
        except Exception as error:
            reason = harmless(str(error).split("\n")[0])
            self.problems.append(f"{what} could not be estimated: {type(error).__name__}: {reason}")
            return None

    def _peak(self) -> tuple[Phase, MetaRun]:
        return estimate(self.run, self.length, demand_of(self.run, self.data, self.requests))

    def _memory_text(self, peak: Phase, meta_run: MetaRun) -> str:
        told, free = described(peak, meta_run.demand), available(self.run.device)
        if peak.total <= free:
            return told
        return f"{told}. Only {free / GIB:.1f} GiB are free. {advice(self.run, self.length, meta_run.demand, peak)}"

    def _writings(self, meta_run: MetaRun) -> list[Writing]:
        return planned(self.run, self.data, self.model, self.length.span, self.requests, meta_run)

    def _duration(self, meta_run: MetaRun, saved: Writing) -> Duration:
        return estimate_time(self.run, self.data, self.model, self.length, self.requests, meta_run, saved.least)

    def _schedule_text(self, meta_run: MetaRun) -> str:
        """The schedule with its phases, the highest rate of each group, and what is odd about them."""
        config, optimizer = self.run.config.schedule, meta_run.trainer.optimizer
        warn_about_schedule(optimizer, config)
        steps = self.length.schedule_steps
        warmup = steps_of(config.lr_warmup_steps, steps)
        phases = [config.lr_scheduler, *([f"warm-up over {warmup} of {steps} steps"] if warmup else [])]
        if config.lr_scheduler_min_lr_ratio:
            phases.append(f"down to {config.lr_scheduler_min_lr_ratio:g} of the rate at the least")
        rates = ", ".join(
            f"{group['name']} {rate:g}" for group, rate in zip(optimizer.inner.param_groups, optimizer.base_rates)
        )
        told = f"{', '.join(phases)}; {rates}"
        if optimizer.kind.one_rate:
            told += "; the optimizer multiplies it with its own estimate"
        if warmup > LONG_WARMUP * steps:
            told += f". The warm-up takes {warmup / steps:.0%} of the run: a tenth is usual"
        return told


def learning_rates(meta_run: MetaRun, length: Length) -> list[tuple[int, float]]:
    """The curve of the group with the most weights, at about POINTS steps, the first and the last among them."""
    trainer, span = meta_run.trainer, length.span
    main = max(trainer.groups, key=lambda group: group.values.numel()).name
    factor = build_schedule(meta_run.run.config.schedule, length.schedule_steps)
    count = span.last_step - span.first_step
    steps = sorted(
        {span.first_step + round(place * (count - 1) / (POINTS - 1)) for place in range(POINTS)} if count else ()
    )
    found = []
    for step in steps:
        trainer.optimizer.set_factor(factor(step))
        found.append((step + 1, trainer.optimizer.rates()[main]))
    return found


def how_known(found: Duration) -> str:
    """Where the time is from, and how it is divided."""
    source = (
        "rough, within about 1.5 times on an idle machine, from its speed just now; dojo rehearse measures it"
        if found.pace is None
        else f"{found.pace.words}; the other parts at that speed"
    )
    parts = {
        "steps": found.steps,
        "caching": found.caching,
        "sample pictures": found.sampling,
        "validation": found.validation,
        "saving": found.saving,
    }
    listed = ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts.items() if seconds >= 1)
    return f"{source}: {listed}" if listed else source
