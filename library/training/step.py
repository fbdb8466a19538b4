"""One optimizer update: the forward and backward passes of a global batch, and what is done with the gradients."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from library.core.memory import needing_memory
from library.core.randomness import derived_seed
from library.core.readback import Readback
from library.data.types import Conditioning
from library.models.base import DiffusionModel
from library.optim.ema import ExponentialAverage
from library.optim.flat import FlatGroups, gradient_norm
from library.optim.optimizers import Optimizer
from library.training.batch import Batch
from library.training.broken import BrokenUpdates, describe
from library.training.graphs import CapturedPasses, ordinary_pass
from library.training.halving import Halving
from library.training.loss_scale import LossScale
from library.training.objective import Objective
from library.training.state.snapshot import Snapshot, restore, take_snapshot
from networks.base import Network

LAG = 2
"""Updates after which a GPU is asked for an update's figures: it is long past it by then, and has more to do meanwhile."""


@dataclass(frozen=True)
class Update:
    """An update that has not been looked back at."""

    figures: Readback
    batches: Sequence[Batch]
    rates: dict[str, float]


@dataclass
class Trainer:
    """Everything that an update reads and changes."""

    model: DiffusionModel
    network: Network
    objective: Objective
    groups: FlatGroups
    optimizer: Optimizer
    schedule: Callable[[int], float]
    """Updates done -> factor of the learning rates."""
    loss_scale: LossScale
    ema: ExponentialAverage | None
    seed: int
    rank: int
    processes: int
    device: torch.device
    max_grad_norm: float
    max_weight_norm: float | None
    lag: int = 0
    """Updates that may pass before an update is looked back at; 0 where reading a value is free."""
    broken: BrokenUpdates = field(default_factory=BrokenUpdates)
    captured: CapturedPasses | None = None
    """Does what `add_gradient` does after seeding dropout, as a captured graph."""
    halving: Halving = field(default_factory=Halving)
    asked_anywhere: int = 0
    """Sum of the exit statuses with which processes were asked to stop, as far as updates have been looked back at; 0: none was."""
    uncompiled: Callable[[], AbstractContextManager[None]] = nullcontext
    """While it is open, compiled parts of the model run as they were written."""
    _past: deque[Update] = field(default_factory=deque)
    _mark: tuple[int, Snapshot] | None = None
    """Where a rollback returns to: updates done, and the state then."""

    def set_learning_rates(self, step: int) -> None:
        """The learning rates of this update."""
        self.optimizer.set_factor(self.schedule(step))

    def accumulate_all(self, passes: Sequence[Batch]) -> list[Tensor]:
        """Add the gradients of every pass, in parts where memory asks for it; returns the losses (B,) of each part.

        Raises:
            UserError: with `Exit.OUT_OF_MEMORY`, memory does not suffice.
        """
        return self.halving.accumulate(passes, self.accumulate, self.groups.zero_grad)

    def accumulate(self, batch: Batch) -> Tensor:
        """Add the batch's share of the gradient; returns its losses (B,)."""
        seed = derived_seed(self.seed, "dropout", batch.step, batch.micro, self.rank, *batch.part)
        batch = self.with_tokens(batch)
        if self.captured is not None:
            return self.captured(batch, seed)
        return ordinary_pass(self.add_gradient, batch, seed, self.device)

    def add_gradient(self, batch: Batch, global_size: Tensor) -> Tensor:
        """`accumulate` for a batch on the device; nothing in it waits for the device or depends on what is computed there.

        Args:
            global_size: 0-d, samples of the global batch.
        """
        self.network.set_multiplier(batch.multiplier)
        self.network.set_timestep(batch.timesteps)
        prior = self._frozen_prediction(batch) if batch.keeps_prior is not None else None
        losses = self.objective(batch, self.conditioning(batch), prior)
        self.loss_scale.scaled(losses.sum() / global_size).backward()
        return losses.detach()

    def reduce_gradients(self, losses: Sequence[Tensor] = (), stop: int = 0) -> None:
        """Sum the gradients, the losses and the requests to stop over the processes, in one exchange.

        Each process holds its samples' share of the mean over the global batch.

        Args:
            losses: of each pass, (B,).
            stop: the exit status to stop with, where this process is asked to stop.
        """
        self.groups.extra[1].fill_(stop)
        total = self.groups.extra[0].zero_()
        for each in losses:
            total += each.sum()
        if self.processes > 1:
            torch.distributed.all_reduce(self.groups.summed)
        self.loss_scale.unscale_(self.groups.gradients)

    def clip(self) -> Tensor:
        """Scale the gradients down to `max_grad_norm`; returns their norm before."""
        norm = gradient_norm(self.groups)
        if self.max_grad_norm > 0:
            self.groups.clip(norm, self.max_grad_norm)
        return norm

    @needing_memory("in the optimizer's update", 'optimizer_type = "AdamW8bit" or a lower network_dim takes less.')
    def update_weights(self, step: int, gradient_norm: Tensor, batches: Sequence[Batch]) -> Readback:
        """Let the optimizer act on the gradients, unless loss or gradient is not finite, and clear them.

        Args:
            step: updates done before this one.
            batches: of this update, to be named where it is broken.

        Returns:
            `loss`, the sum over the global batch; `gradient_norm`; `broken`, 1 where a value was not finite; `stop`, the sum of
            the exit statuses with which processes are asked to stop; and the norms of the weights where they are limited.
        """
        loss, stop = self.groups.extra[0], self.groups.extra[1]
        overflow = (~torch.isfinite(gradient_norm + loss)).float()
        self.optimizer.step(overflow, goes_on=self.loss_scale.enabled or self.broken.action == "skip")
        self.loss_scale.update(overflow)
        self.groups.zero_grad()
        norms = {} if self.max_weight_norm is None else self.network.limit_norms(self.max_weight_norm)
        if self.ema is not None:
            self.ema.update(step)
        broken = self.loss_scale.hopeless(overflow)
        figures = Readback({"loss": loss, "gradient_norm": gradient_norm, "broken": broken, "stop": stop, **norms})
        self._past.append(Update(figures, batches, self.optimizer.effective_rates()))
        return figures

    def look_back(self, lag: int = 0) -> None:
        """Read the figures of the updates at least `lag` updates ago: who was asked to stop, and what was broken, with which is dealt
        as `broken` says.

        Raises:
            UserError: a loss or gradient was not finite, and the run is to stop. No weight has changed because of it.
        """
        while len(self._past) > lag:
            update = self._past.popleft()
            values = update.figures.values()
            self.asked_anywhere = max(self.asked_anywhere, round(values["stop"]))
            if values["broken"]:
                marked_step, snapshot = self._mark or (0, None)
                self.broken.meet(describe(update.batches, update.rates), marked_step)
                if snapshot is not None:
                    restore(self, snapshot, "memory")
                    self._past.clear()

    def snapshot(self, step: int) -> Snapshot:
        """A copy of everything that training changes, after `step` updates; a later rollback returns to it.

        Raises:
            UserError: as `look_back`, or a weight is not finite.
        """
        self.look_back()
        snapshot = take_snapshot(self)
        if self.broken.action == "rollback":
            self._mark = (step, snapshot)
        return snapshot

    def mark(self, step: int) -> None:
        """Let a later rollback return to here, where rollbacks are asked for."""
        if self.broken.action == "rollback":
            self.snapshot(step)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Within the block the weights are those that are saved (averaged, where asked for) and dropouts are off.

        Training goes on afterwards with bitwise the same weights.
        """
        self.network.train(False)
        self.network.set_multiplier(1.0)
        averaged = self.ema.swapped() if self.ema is not None else nullcontext()
        try:
            with self.optimizer.evaluating(), averaged, self.uncompiled():
                yield
        finally:
            self.network.train(True)

    def with_tokens(self, batch: Batch) -> Batch:
        """The batch with its captions as tokens where they are not cached as conditioning."""
        if batch.conditioning is not None:
            return batch
        return replace(batch, tokens=self.model.tokenize(batch.prompts))

    def conditioning(self, batch: Batch) -> Conditioning:
        """The conditioning of a batch on the device, encoded now where it is not cached."""
        if batch.conditioning is not None:
            return batch.conditioning
        assert batch.tokens is not None
        return self.model.encode_tokens(batch.tokens)

    def _frozen_prediction(self, batch: Batch) -> Tensor:
        """(B, C, h, w) what the base model predicts without the network."""
        with torch.no_grad(), self.network.enabled(False):
            return self.objective.predict(batch, self.conditioning(batch))
