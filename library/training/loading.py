"""Batch after batch of the training data, made while the step before is at work: by worker processes, or a thread of this one."""

from __future__ import annotations

import atexit
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch.utils.data import DataLoader

from library.core.errors import Exit, UserError
from library.core.memory import needing_memory
from library.core.signals import ignore_stopping
from library.data.dataset import StepKey, TrainingData
from library.data.types import MicroBatch
from library.diffusion.timesteps import trained_timesteps
from library.models.base import DiffusionModel
from library.training.batch import Batch, Collate, Draws, encode_and_assemble
from library.training.loop import Span
from library.training.run import Run

T = TypeVar("T")


def draws_of(run: Run, model: DiffusionModel) -> Draws:
    """The random numbers of the run's samples."""
    return Draws(run.seed, run.config.noise, trained_timesteps(run.config.noise, model.process.num_timesteps))


def batches(run: Run, data: TrainingData, model: DiffusionModel, span: Span) -> Iterator[Batch | None]:
    """This process's batch for each pass from `span.first_step` on, in order; None where it has no sample in a pass."""
    workers = run.config.data.max_data_loader_n_workers
    draws = draws_of(run, model)
    loader: DataLoader[Batch | MicroBatch | Mistake] = DataLoader(
        Served(data, Collate(draws)),  # type: ignore[arg-type]
        sampler=data.step_keys(span.first_step, span.last_step),
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,  # type: ignore[arg-type]  # without a batch size it gets the sample itself
        pin_memory=run.device.type == "cuda",
        multiprocessing_context="spawn" if workers and os.name == "nt" else None,
        worker_init_fn=settle_worker if workers else None,
    )
    if workers:
        atexit.register(_kill_children)
    for found in _unwrapped(iter(loader) if workers else made_ahead(iter(loader), run.device)):
        if isinstance(found, Batch):
            yield found
        elif not found.examples:
            yield None
        else:
            with needing_memory(
                "while a batch's pictures were encoded", "cache_latents = true encodes them beforehand."
            ):
                encoded = encode_and_assemble(found, model.encode_images, draws, run.device)
            yield encoded


@dataclass(frozen=True)
class Mistake:
    """A `UserError` on its way from a worker, which could not bring more than a text of it."""

    message: str
    exit_code: Exit


@dataclass(frozen=True)
class Served:
    """Batches as the loader's workers make them; a user's mistake is handed over like a batch."""

    data: TrainingData
    collate: Collate

    def __getitem__(self, key: StepKey) -> Batch | MicroBatch | Mistake:
        try:
            return self.collate(self.data[key])
        except UserError as error:
            return Mistake(str(error), error.exit_code)


def _as_it_is(made: Batch | MicroBatch | Mistake) -> Batch | MicroBatch | Mistake:
    return made


def made_ahead(items: Iterator[T], device: torch.device) -> Iterator[T]:
    """The items, each made in a thread of this process while the one before it is worked on; errors are raised in their turn."""

    gpu = torch.cuda.current_device() if device.type == "cuda" else None

    def settle() -> None:
        torch.set_num_threads(1)  # a second team of threads would make the step's own sleep and wake at every operator
        if gpu is not None:
            torch.cuda.set_device(gpu)  # belongs to a thread; page-locked memory is asked from it

    thread = ThreadPoolExecutor(max_workers=1, initializer=settle)
    try:
        following: Future[T | None] = thread.submit(next, items, None)
        while (item := following.result()) is not None:
            following = thread.submit(next, items, None)
            yield item
    finally:  # without waiting: the garbage collector may come here while another thread is being started, which would wait too
        thread.shutdown(wait=False, cancel_futures=True)


def _unwrapped(found: Iterator[Batch | MicroBatch | Mistake]) -> Iterator[Batch | MicroBatch]:
    """The loader's batches.

    Raises:
        UserError: a mistake that was found while one was made.
    """
    for each in found:
        if isinstance(each, Mistake):
            raise UserError(each.message, each.exit_code)
        yield each


def settle_worker(worker: int) -> None:
    """Workers prepare small tensors; more threads would take the cores from the step.

    The signal that asks a run to stop may reach them too, and they are needed for the step that is then finished.
    """
    torch.set_num_threads(1)
    ignore_stopping()


def _kill_children() -> None:
    """At exit Python asks them to stop, which they ignore, and waits."""
    for child in multiprocessing.active_children():
        child.kill()
