"""Who looks on while a run trains: log, validation, files, sample pictures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread

from PIL import Image

from library.config.resolved import resolved_text
from library.config.words import with_words
from library.data.dataset import TrainingData
from library.data.types import Example
from library.inference.prompts import read_prompts
from library.inference.requests import SampleRequest
from library.inference.sample import ALL_PARTS, generate
from library.models.base import DiffusionModel
from library.training.data import model_fingerprint, parts_of_previews
from library.training.interval import sample_interval, validation_interval
from library.training.length import Length
from library.training.loading import draws_of
from library.training.log import Board, Log
from library.training.loop import Observer
from library.training.metadata import describe_run
from library.training.needs.meta_run import MetaRun
from library.training.needs.pace import PaceTaker
from library.training.preview import Preview
from library.training.run import Run
from library.training.state.checkpoint import Position
from library.training.state.saving import Saver
from library.training.step import Trainer
from library.training.validation import Validation


@dataclass(frozen=True)
class Observers:
    """The observers of a run, by what they do."""

    board: Board
    log: Log
    validation: Validation | None
    saver: Saver
    preview: Preview | None
    pace: PaceTaker | None

    def close(self) -> None:
        """Bring what is still to be written to disk; also where a run ends before its last step.

        Raises:
            UserError: it cannot be written.
        """
        try:
            self.saver.close()
        finally:
            self.log.close()

    @property
    def all(self) -> Sequence[Observer]:
        """In the order in which they are told: files are saved before pictures are tried; the bar starts with the steps."""
        return [each for each in (self.validation, self.saver, self.preview, self.log, self.pace) if each is not None]


def build_observers(
    run: Run,
    data: TrainingData,
    trainer: Trainer,
    length: Length,
    requests: Sequence[SampleRequest],
    meta_run: MetaRun | None = None,
) -> Observers:
    """What the configuration asks to be logged, measured, saved and sampled.

    Args:
        meta_run: with it the duration of a step is noted for later runs.
    """
    board = Board(log_folder(run) if run.is_main and run.config.logging.log_with == "tensorboard" else None)
    board.text("config", f"```toml\n{resolved_text(run.as_written)}\n```")
    logging_config = run.config.logging
    shows_bar = run.is_main and logging_config.progress
    if run.is_main:  # hashes a whole file; the first save would wait for it
        Thread(target=trainer.model.metadata, daemon=True).start()
    return Observers(
        board=board,
        log=Log(board, length.span, logging_config.log_every_n_steps, shows_bar, trainer.lag),
        validation=_validation(run, data, trainer, board),
        saver=_saver(run, data, trainer, length),
        preview=_preview(run, data, trainer, board, requests),
        pace=None if meta_run is None else PaceTaker(run, meta_run, trainer.model.latents.stride),
    )


def log_folder(run: Run) -> Path:
    """`logging_dir/{prefix}{start of the run}/network_train`."""
    config = run.config.logging
    root = Path(config.logging_dir) if config.logging_dir else run.folder / "logs"
    stamp = time.strftime("%Y%m%d%H%M%S", time.localtime(run.now))
    return root / f"{config.log_prefix or ''}{stamp}" / config.log_tracker_name


def _validation(run: Run, data: TrainingData, trainer: Trainer, board: Board) -> Validation | None:
    if data.validation is None:
        return None
    config = run.config.validation
    batches: list[list[Example]] = list(data.validation.batches(data.material.datasets[0].buckets.train_batch_size))
    return Validation(
        trainer=trainer,
        draws=draws_of(run, trainer.model),
        batches=batches[: config.max_validation_steps],
        timesteps=config.validation_timesteps,
        interval=validation_interval(config),
        board=board,
        history=[],
    )


def _saver(run: Run, data: TrainingData, trainer: Trainer, length: Length) -> Saver:
    fingerprint, machine = data.fingerprint(), run.machine

    def position(step: int) -> Position:
        model = model_fingerprint(run, trainer.model)
        return Position(
            step,
            length.schedule_steps,
            run.seed,
            fingerprint,
            model,
            run.settings,
            run.started_at,
            time.time(),
            machine,
            run.network_weights,
        )

    return Saver(
        trainer=trainer,
        config=run.config.saving,
        span=length.span,
        describe=lambda step, epoch: describe_run(run, data, trainer, length.span, step, epoch),
        position=position,
        wait_for_everyone=run.accelerator.wait_for_everyone,
    )


def sample_requests(run: Run, data: TrainingData, model: DiffusionModel) -> list[SampleRequest]:
    """The pictures to be sampled during the run; none where none are asked for.

    Raises:
        UserError: mistakes in the prompt file.
    """
    config = run.config.sampling
    asked = config.sample_every_n_steps or config.sample_every_n_epochs or config.sample_at_first
    if not config.sample_prompts or not asked:
        return []
    width, height = data.material.datasets[0].buckets.resolution
    default = SampleRequest("", width=width, height=height, seed=run.seed, sampler=config.sample_sampler)
    requests = read_prompts(Path(config.sample_prompts), default, model.latents.stride)
    return [replace(request, prompt=with_words(request.prompt, run.config.data)) for request in requests]


def _preview(
    run: Run, data: TrainingData, trainer: Trainer, board: Board, requests: Sequence[SampleRequest]
) -> Preview | None:
    if not requests:
        return None
    dropped = parts_of_previews(run, data)
    kept = [part for part in ALL_PARTS if part not in dropped]
    batch_size = data.material.datasets[0].buckets.train_batch_size

    def paint(wanted: Sequence[SampleRequest]) -> list[Image.Image]:
        return list(generate(trainer.model, wanted, [trainer.network], batch_size, kept))

    return Preview(
        trainer=trainer,
        paint=paint,
        requests=requests,
        interval=sample_interval(run.config.sampling),
        at_first=run.config.sampling.sample_at_first,
        folder=run.folder / "sample",
        name=run.config.saving.output_name,
        board=board,
        wait_for_everyone=run.accelerator.wait_for_everyone,
        breaking_off=run.signals.breaking_off,
    )
