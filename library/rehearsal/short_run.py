"""A run gone through in short, by the run's own code: what it does for hours is done once or twice, and timed.

Everything is written into a hidden folder; only the caches keep what is encoded. Since the run's random numbers are functions of
the seed, nothing of the later run is changed by it.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from library.config.load import LoadedConfig
from library.core.durations import duration
from library.data.dataset import TrainingData
from library.inference.requests import SampleRequest
from library.lora_files.sidecars import save_picture
from library.models.base import DiffusionModel
from library.models.load import load_model
from library.rehearsal.excerpt import MOST_SHAPES, Shape
from library.rehearsal.parts import Parts, timed
from library.rehearsal.sameness import compare
from library.training.graphs import WARM_UP_USES
from library.training.interval import times_sampled, times_saved, times_validated
from library.training.length import Length
from library.training.loading import batches
from library.training.loop import Observer, StepReport, fit
from library.training.needs.estimate import telling_what_takes_less
from library.training.needs.meta_run import MetaRun
from library.training.needs.pace import note_pace
from library.training.observers import Observers, build_observers
from library.training.run import Run, start_run
from library.training.state.checkpoint import load_state
from library.training.state.saving import checkpoint_name
from library.training.state.snapshot import Snapshot, take_snapshot
from library.training.step import Trainer
from library.training.trainer import build_trainer, captured_passes, prepare_base, resume, trained_hosts
from networks.build import build_network, find_plugin
from networks.files.apply import apply_lora
from networks.foreign import is_foreign


@dataclass
class Stopwatch:
    """Times the updates between two steps; on a GPU it waits for either."""

    first_step: int
    last_step: int
    begun: float = 0.0
    """By `time.perf_counter`."""
    seconds: float = 0.0

    def before_training(self, step: int) -> None:
        """The first updates are not timed."""

    def after_step(self, report: StepReport) -> None:
        if report.step in (self.first_step, self.last_step):
            report.figures.values()
            self.seconds = time.perf_counter() - self.begun
        if report.step == self.first_step:
            self.begun = time.perf_counter()

    def after_training(self, step: int) -> None:
        """The last update has been timed."""

    def before_stop(self, step: int) -> None:
        """Nothing stops a rehearsal but its end."""


@dataclass(frozen=True)
class Saved:
    """What was written of the trained weights."""

    lora: Path
    state: Path

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of the LoRA file and of the state."""
        return self.lora.stat().st_size, sum(file.stat().st_size for file in self.state.iterdir())


@dataclass(frozen=True)
class Continued:
    """What a resumed run must come to: the update after the save."""

    saved: Saved
    shape: Shape
    """Of that update's batch."""
    step: int
    """Updates done before it."""
    after: Snapshot


@dataclass
class ShortRun:
    """Goes through the parts of a run."""

    run: Run
    """Writes into the hidden folder."""
    data: TrainingData
    """With its caches, so far as they are needed; the validation data are cut to one batch."""
    length: Length
    shapes: Sequence[Shape]
    """Of the whole run, the largest first."""
    validation_batches: int
    """Of the whole run, each time it validates."""
    requests: Sequence[SampleRequest]
    parts: Parts
    step: int
    """Updates done."""
    meta_run: MetaRun | None = None
    """With it the duration of a step is noted."""

    def train(self, model: DiffusionModel) -> Continued | None:
        """Steps, a save, a sample, a validation and one step more; None where there is nothing to resume from."""
        with self.parts.part("network and optimizer") as part:
            (trainer, observers), part.seconds = timed(lambda: self._begin(model))
        if part.fails:
            return None
        shape = self._steps(trainer, observers)
        saved = self._save(trainer, observers)
        self._sample(trainer, observers)
        self._validate(trainer, observers)
        if shape is None or saved is None:
            return None
        with self.parts.part("going on after all that"):
            step = self.step
            self._fit(trainer, shape, 1)
            return Continued(saved, shape, step, take_snapshot(trainer))
        return None

    def resume(self, loaded: LoadedConfig, continued: Continued) -> None:
        """Load what was saved, the LoRA as other programs do, the state as `resume` does, and compare the next step."""
        config, saved = self.run.config, continued.saved
        with self.parts.part("loading the model anew") as part:
            model = load_model(config.model, self.run.dtype, self.run.device)
        if part.fails:
            return
        if not is_foreign(find_plugin(config.network.network_module)):
            with self.parts.part("loading the LoRA") as part:
                network = apply_lora(saved.lora, trained_hosts(self.run, model), model.family)
                network.detach()
                part.measured = f"fits, with {len(network.sites)} modules"
        with self.parts.part("resuming") as part:
            state = replace(self.run.config.saving, resume=str(saved.state))
            again = replace(loaded, config=replace(self.run.as_written, saving=state))
            with redirect_stdout(io.StringIO()):  # it was all said at the start
                self.run = start_run(again, replace(config, saving=state), self.run.accelerator)
                prepare_base(self.run, model)
                trainer, _ = self._begin(model)
            self.step = continued.step
            self._fit(trainer, continued.shape, 1)
            exact = self.run.device.type == "cpu"
            part.measured = compare(take_snapshot(trainer), continued.after, load_state(saved.state), exact)

    def _begin(self, model: DiffusionModel) -> tuple[Trainer, Observers]:
        run = self.run
        built = build_network(run.config.network, trained_hosts(run, model), model.family, run.seed)
        trainer = build_trainer(run, model, built, self.length)
        trainer.captured = captured_passes(run, trainer, self.data)
        resume(run, trainer, self.data)
        return trainer, build_observers(run, self.data, trainer, self.length, self._largest())

    def _largest(self) -> list[SampleRequest]:
        """The request for the largest picture."""
        return sorted(self.requests, key=lambda each: (each.width * each.height, each.steps))[-1:]

    def _steps(self, trainer: Trainer, observers: Observers) -> Shape | None:
        """Time the largest shapes; returns the largest that went well."""
        done: list[tuple[Shape, float]] = []
        for shape in self.shapes[:MOST_SHAPES]:
            with self.parts.part(f"steps at {shape.name}") as part:
                each = self._timed_step(trainer, observers, shape, 1 if done else 2)
                done.append((shape, each))
                part.measured, part.seconds = f"{duration(each)} each", each * shape.full_updates
                part.over_the_run = f"{shape.updates:.0f} steps"
                self._note(shape, each)
            trainer.groups.zero_grad()
        rest = self.shapes[MOST_SHAPES:]
        if done and rest:
            with self.parts.part("steps at other sizes") as part:
                part.measured = f"{len(rest)} sizes, not tried"
                part.over_the_run = f"{sum(shape.updates for shape in rest):.0f} steps"
                smallest, each = done[-1]
                part.seconds = sum(each * shape.full_updates * shape.pixels / smallest.pixels for shape in rest)
        return done[0][0] if done else None

    def _timed_step(self, trainer: Trainer, observers: Observers, shape: Shape, timed_steps: int) -> float:
        """Seconds of an update. The first ones of a shape compile kernels, and record them on a GPU."""
        uses = WARM_UP_USES + 1 if trainer.captured is not None else 1
        warm_up = math.ceil(uses / self.length.span.accumulation)
        watch = Stopwatch(self.step + warm_up, self.step + warm_up + timed_steps)
        self._fit(trainer, shape, warm_up + timed_steps, [observers.log, watch])
        return watch.seconds / timed_steps

    def _note(self, shape: Shape, seconds: float) -> None:
        """For later runs, where it is the shape by which they find it."""
        if self.meta_run is not None:
            demand, full = self.meta_run.demand, self.meta_run.demand.batch * self.length.span.accumulation
            if (shape.bucket.size, shape.bucket.samples) == (demand.size, full):
                note_pace(self.run, self.meta_run, seconds)

    def _fit(self, trainer: Trainer, shape: Shape, updates: int, observers: Sequence[Observer] = ()) -> None:
        span = replace(self.length.span, first_step=self.step, last_step=self.step + updates)
        self.step = span.last_step
        data = shape.alone(self.data)
        with telling_what_takes_less(self.run, self.length):
            fit(trainer, batches(self.run, data, trainer.model, span), span, observers)

    def _save(self, trainer: Trainer, observers: Observers) -> Saved | None:
        saver, folder = observers.saver, self.run.folder
        with self.parts.part("saving") as part:
            try:
                _, seconds = timed(lambda: saver.before_stop(self.step))
            finally:
                saver.writer.finish()
            times = times_saved(self.run.config.saving, self.length.span)
            part.measured, part.seconds, part.over_the_run = duration(seconds), times * seconds, f"{times} times"
            name = checkpoint_name(self.run.config.saving.output_name, "step", self.step)
            return Saved(folder / f"{name}.safetensors", folder / f"{name}-state")
        return None

    def _sample(self, trainer: Trainer, observers: Observers) -> None:
        """Paint the largest picture with the network; at the end of a run all are painted once more without."""
        preview = observers.preview
        if preview is None:
            return
        (largest,) = preview.requests
        with self.parts.part(f"sampling {largest.width}x{largest.height}", survived=True) as part:
            with trainer.evaluation(), trainer.network.enabled(True):
                (picture,), seconds = timed(lambda: preview.paint([largest]))
            save_picture(picture, preview.folder / "largest.png")
            times = times_sampled(self.run.config.sampling, self.length.span) + 1
            of_all = sum(_work(request) for request in self.requests) / _work(largest)
            part.measured, part.seconds = f"{duration(seconds)} a picture", seconds * of_all * times
            part.over_the_run = f"{len(self.requests)} prompt(s), {times} times"

    def _validate(self, trainer: Trainer, observers: Observers) -> None:
        validation = observers.validation
        if validation is None:
            return
        with self.parts.part("validation") as part:
            with trainer.evaluation(), torch.no_grad():
                _, seconds = timed(validation.losses)
            times = times_validated(self.run.config.validation, self.length.span)
            part.measured, part.seconds = f"{duration(seconds)} a batch", seconds * self.validation_batches * times
            part.over_the_run = f"{self.validation_batches} batch(es), {times} times"


def _work(request: SampleRequest) -> int:
    """What a picture's time is in proportion to."""
    return request.width * request.height * request.steps
