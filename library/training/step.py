"""One optimizer update: the forward and backward passes of a global batch, and what is done with the gradients."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from library.core.errors import Exit, UserError
from library.core.randomness import derived_seed
from library.core.readback import Readback
from library.data.types import Conditioning
from library.models.base import DiffusionModel
from library.optim.ema import ExponentialAverage
from library.optim.flat import FlatGroups, gradient_norm
from library.optim.optimizers import Optimizer
from library.training.batch import Batch
from library.training.loss_scale import LossScale
from library.training.objective import Objective
from networks.base import Network

LAG = 2
"""Updates after which a GPU is asked for an update's figures: it is long past it by then, and has more to do meanwhile."""


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
    """Updates that may pass before an update is checked; 0 where reading a value is free."""
    captured: Callable[[Batch, int], Tensor] | None = None
    """Does what `add_gradient` does after seeding dropout, as a captured graph; see `library.training.graphs`."""
    uncompiled: Callable[[], AbstractContextManager[None]] = nullcontext
    """While it is open, compiled parts of the model run as they were written."""
    _unchecked: deque[tuple[Readback, Sequence[Batch]]] = field(default_factory=deque)

    def set_learning_rates(self, step: int) -> None:
        """The learning rates of this update."""
        self.optimizer.set_factor(self.schedule(step))

    def accumulate(self, batch: Batch) -> Tensor:
        """Add the batch's share of the gradient; returns its losses (B,)."""
        seed = derived_seed(self.seed, "dropout", batch.step, batch.micro, self.rank)
        batch = self.with_tokens(batch)
        if self.captured is not None:
            return self.captured(batch, seed)
        torch.manual_seed(seed)
        return self.add_gradient(batch.to(self.device), torch.full((), float(batch.global_size), device=self.device))

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

    def reduce_gradients(self, losses: Sequence[Tensor] = ()) -> None:
        """Sum the gradients and the losses over the processes, in one exchange.

        Each process holds its samples' share of the mean over the global batch.

        Args:
            losses: of each pass, (B,).
        """
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

    def update_weights(self, step: int, gradient_norm: Tensor, batches: Sequence[Batch]) -> Readback:
        """Let the optimizer act on the gradients, unless one is not finite, and clear them.

        Args:
            step: updates done before this one.

        Returns:
            `loss`, the sum over the global batch; `gradient_norm`; `broken`, 1 where the run must stop; and the norms of the
            weights where they are limited.

        Raises:
            UserError: a gradient of this update, or of one up to `lag` before, was not finite. No weight has changed because of it.
        """
        overflow = (~torch.isfinite(gradient_norm)).float()
        self.optimizer.step(overflow, goes_on=self.loss_scale.on)
        self.loss_scale.update(overflow)
        self.groups.zero_grad()
        norms = {} if self.max_weight_norm is None else self.network.limit_norms(self.max_weight_norm)
        if self.ema is not None:
            self.ema.update(step)
        figures = Readback(
            {
                "loss": self.groups.extra[0],
                "gradient_norm": gradient_norm,
                "broken": self.loss_scale.hopeless(overflow),
                **norms,
            }
        )
        self._unchecked.append((figures, batches))
        self.check_gradients(self.lag)
        return figures

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

    def check_gradients(self, lag: int = 0) -> None:
        """Stop where a gradient of an update at least `lag` updates ago was not finite.

        Raises:
            UserError: names the step, this process's pictures, and the learning rates.
        """
        while len(self._unchecked) > lag:
            figures, batches = self._unchecked.popleft()
            if figures.values()["broken"]:
                raise UserError(self._report_of_broken_gradient(batches), Exit.BROKEN_VALUES)

    def _report_of_broken_gradient(self, batches: Sequence[Batch]) -> str:
        samples = [
            f"{image} at timestep {t}" for batch in batches for image, t in zip(batch.images, batch.timesteps.tolist())
        ]
        rates = ", ".join(f"{name} {rate:.3g}" for name, rate in self.optimizer.effective_rates().items())
        where = f"step {batches[0].step + 1}" if batches else "this step"
        return (
            f"the gradient became NaN or infinite at {where}; it changed no weight, and nothing of it was saved. "
            f"Pictures of this process: {'; '.join(samples)}. Learning rates: {rates}. "
            "Usual causes: a learning rate that is too high, fp16 overflow (mixed_precision = bf16 avoids it), broken data. "
            "Resume from the last state with a lower learning rate."
        )
