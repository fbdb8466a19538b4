"""One optimizer update: the forward and backward passes of a global batch, and what is done with the gradients."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from library.core.errors import UserError
from library.core.randomness import derived_seed
from library.data.types import Conditioning
from library.models.base import DiffusionModel
from library.optim.ema import ExponentialAverage
from library.optim.flat import FlatGroup, clip_gradients, gradient_norm
from library.optim.optimizers import Optimizer
from library.training.batch import Batch
from library.training.loss_scale import LossScale
from library.training.objective import Objective
from networks.base import Network

LAG = 2
"""Steps after which a GPU is asked for a step's loss and whether its gradient was finite: it is long past it by then."""

BROKEN_GRADIENT = 3
"""Exit status of a run that stopped at a gradient that was not finite."""


@dataclass
class Trainer:
    """Everything that an update reads and changes."""

    model: DiffusionModel
    network: Network
    objective: Objective
    groups: Sequence[FlatGroup]
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
    _unchecked: deque[tuple[Tensor, Sequence[Batch]]] = field(default_factory=deque)

    def set_learning_rates(self, step: int) -> None:
        """The learning rates of this update."""
        self.optimizer.set_factor(self.schedule(step))

    def accumulate(self, batch: Batch) -> Tensor:
        """Add the batch's share of the gradient; returns its losses (B,)."""
        torch.manual_seed(derived_seed(self.seed, "dropout", batch.step, batch.micro, self.rank))
        batch = batch.to(self.device)
        self.network.set_multiplier(batch.multiplier)
        self.network.set_timestep(batch.timesteps)
        prior = self._frozen_prediction(batch) if batch.keeps_prior is not None else None
        losses = self.objective(batch, self.conditioning(batch), prior)
        self.loss_scale.scaled(losses.sum() / batch.global_size).backward()
        return losses.detach()

    def reduce_gradients(self) -> None:
        """Sum the gradients over the processes; each holds its samples' share of the mean over the global batch."""
        for group in self.groups:
            if self.processes > 1:
                torch.distributed.all_reduce(group.gradients)
            self.loss_scale.unscale_(group.gradients)

    def clip(self) -> Tensor:
        """Scale the gradients down to `max_grad_norm`; returns their norm before."""
        norm = gradient_norm(self.groups)
        if self.max_grad_norm > 0:
            clip_gradients(self.groups, norm, self.max_grad_norm)
        return norm

    def update_weights(self, step: int, gradient_norm: Tensor, batches: Sequence[Batch]) -> dict[str, float]:
        """Let the optimizer act on the gradients, unless one is not finite, and clear them.

        Args:
            step: updates done before this one.

        Returns:
            The norms of the weights, where they are limited.

        Raises:
            UserError: a gradient was not finite. No weight has changed because of it.
        """
        overflow = (~torch.isfinite(gradient_norm)).float()
        self.optimizer.step(overflow)
        self.loss_scale.update(overflow)
        self._unchecked.append((overflow, batches))
        self.check_gradients(lag=LAG if self.device.type == "cuda" else 0)
        for group in self.groups:
            group.zero_grad()
        norms = {} if self.max_weight_norm is None else dict(self.network.limit_norms(self.max_weight_norm))
        if self.ema is not None:
            self.ema.update(step)
        return norms

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Within the block the weights are those that are saved (averaged, where asked for) and dropouts are off.

        Training goes on afterwards with bitwise the same weights.
        """
        self.network.train(False)
        self.network.set_multiplier(1.0)
        try:
            with self.optimizer.evaluating(), self.ema.swapped() if self.ema is not None else nullcontext():
                yield
        finally:
            self.network.train(True)

    def conditioning(self, batch: Batch) -> Conditioning:
        """The batch's conditioning, encoded now where it is not cached."""
        if batch.conditioning is not None:
            return batch.conditioning
        tokens = self.model.tokenize(batch.prompts)
        return self.model.encode_tokens({name: tensor.to(self.device) for name, tensor in tokens.items()})

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
            overflow, batches = self._unchecked.popleft()
            if overflow.item() and self.loss_scale.is_hopeless():
                raise UserError(self._report_of_broken_gradient(batches), exit_code=BROKEN_GRADIENT)

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
