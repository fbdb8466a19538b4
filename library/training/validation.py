"""The plain squared error on held-out pictures, with fixed noise and timesteps: two measurements differ by the weights alone.

Neither the training's distance nor its weighting of timesteps enters, so that runs can be compared.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from library.core.memory import needing_memory
from library.core.randomness import torch_generator
from library.data.types import Example, MicroBatch
from library.diffusion.distance import squared
from library.training.batch import Batch, Collate, Draws, encode_and_assemble
from library.training.interval import Interval
from library.training.log import Board
from library.training.loop import StepReport
from library.training.objective import Objective
from library.training.step import Trainer

log = logging.getLogger("dojo")


def unweighted(t_B: Tensor) -> Tensor:
    """Every timestep counts alike."""
    return torch.ones_like(t_B, dtype=torch.float32)


@dataclass
class Validation:
    """Measures before the first step and at intervals. Training's random numbers are not touched."""

    trainer: Trainer
    draws: Draws
    batches: Sequence[Sequence[Example]]
    timesteps: Sequence[int]
    interval: Interval
    board: Board
    history: list[tuple[int, float]]

    def before_training(self, step: int) -> None:
        self._measure(step)

    def after_step(self, report: StepReport) -> None:
        if self.interval.due(report):
            self._measure(report.step)

    def after_training(self, step: int) -> None:
        if self.history[-1][0] != step:
            self._measure(step)

    def before_stop(self, step: int) -> None:
        """A run that is continued measures where it would have."""

    @needing_memory(
        "while held-out pictures were measured (validation)", "Lower train_batch_size, which is theirs too."
    )
    def _measure(self, step: int) -> None:
        with self.trainer.evaluation(), torch.no_grad():
            losses = self.losses()
        average = sum(losses.values()) / len(losses)
        self.history.append((step, average))
        values = {f"loss/validation/timestep_{t:04d}": loss for t, loss in losses.items()}
        self.board.scalars({"loss/validation/average": average, **values}, step)
        if self.trainer.rank == 0:
            tqdm.write(f"step {step}: validation loss {average:.5f}")

    def losses(self) -> dict[int, float]:
        """Mean loss over the held-out pictures at each timestep, over all processes."""
        objective = Objective(self.trainer.model, squared, unweighted)
        sums = torch.zeros(len(self.timesteps) + 1, device=self.trainer.device)
        for index in range(self.trainer.rank, len(self.batches), self.trainer.processes):
            batch = self._batch(index)
            conditioning = self.trainer.conditioning(batch)
            for place, t in enumerate(self.timesteps):
                corrupted = self._corrupted(batch, index, t)
                self.trainer.network.set_timestep(corrupted.timesteps)
                sums[place] += objective(corrupted, conditioning).sum()
            sums[-1] += len(batch.images)
        if self.trainer.processes > 1:
            torch.distributed.all_reduce(sums)
        return dict(zip(self.timesteps, (sums[:-1] / sums[-1]).tolist()))

    def _batch(self, index: int) -> Batch:
        micro = MicroBatch(
            list(self.batches[index]), step=-1, micro=index, epoch=0, global_size=len(self.batches[index])
        )
        batch = Collate(self.draws)(micro)
        if isinstance(batch, MicroBatch):
            batch = encode_and_assemble(batch, self.trainer.model.encode_images, self.draws, self.trainer.device)
        return self.trainer.with_tokens(batch).to(self.trainer.device)

    def _corrupted(self, batch: Batch, index: int, t: int) -> Batch:
        generator = torch_generator(self.draws.seed, "validation", index, t)
        noise = torch.randn(batch.latents.shape, generator=generator).to(batch.latents.device)
        timesteps = torch.full_like(batch.timesteps, t)
        return replace(batch, noise=noise, corrupting_noise=noise, timesteps=timesteps)
