"""Everything that training changes, copied to where later updates do not reach it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from library.core.errors import Exit, UserError
from library.optim.ema import ExponentialAverage
from library.optim.flat import FlatGroups
from library.optim.optimizers import Optimizer
from library.optim.state import load_optimizer_state, optimizer_state
from library.training.broken import BrokenUpdates
from library.training.halving import Halving
from library.training.loss_scale import LossScale


@dataclass(frozen=True)
class Snapshot:
    """A copy on the CPU, in parts as they are saved."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    """"network": the trained weights in fp32; "optimizer"; "average" where there is one. Each by its own names."""
    scalars: Mapping[str, Any]
    """"optimizer", "loss_scale", "nan_met", "halved": what is no tensor, ready for JSON."""


class Trained(Protocol):
    """What training changes."""

    groups: FlatGroups
    optimizer: Optimizer
    loss_scale: LossScale
    ema: ExponentialAverage | None
    broken: BrokenUpdates
    halving: Halving


def take_snapshot(trained: Trained) -> Snapshot:
    """A copy.

    Raises:
        UserError: a weight is not finite, and nothing should be continued from it.
    """
    require_finite(trained.groups.values)
    optimizer, scalars = optimizer_state(trained.optimizer.inner)
    tensors: dict[str, Mapping[str, Tensor]] = {
        "network": {str(index): _copy(group.values) for index, group in enumerate(trained.groups)},
        "optimizer": optimizer,
    }
    if trained.ema is not None:
        tensors["average"] = trained.ema.state()
    counted = {"nan_met": trained.broken.met, "halved": trained.halving.shapes}
    return Snapshot(tensors, {"optimizer": scalars, "loss_scale": trained.loss_scale.state(), **counted})


@torch.no_grad()
def restore(trained: Trained, snapshot: Snapshot, source: str) -> None:
    """Make everything as it was, bit for bit, but for what has been met since: it stays counted when a rollback goes back.

    Args:
        source: where the snapshot is from, for messages.

    Raises:
        UserError: it is of another network or optimizer, or lacks the average.
    """
    _check_network(trained.groups, snapshot.tensors["network"], source)
    if trained.ema is not None and "average" not in snapshot.tensors:
        raise UserError(
            f"ema_decay is set, but the state in {source} was saved without an average. Unset ema_decay to resume."
        )
    for index, group in enumerate(trained.groups):
        group.values.copy_(snapshot.tensors["network"][str(index)])
    load_optimizer_state(trained.optimizer.inner, snapshot.tensors["optimizer"], snapshot.scalars["optimizer"])
    trained.loss_scale.load_state(snapshot.scalars["loss_scale"])
    trained.broken.met = max(trained.broken.met, snapshot.scalars["nan_met"])
    trained.halving.remember(snapshot.scalars["halved"])
    if trained.ema is not None:
        trained.ema.load_state(snapshot.tensors["average"])


def require_finite(values: Tensor) -> None:
    """Stop before anything is saved of weights that are not finite.

    Raises:
        UserError: they are not.
    """
    if not bool(torch.isfinite(values).all()):
        raise UserError(
            "the optimizer has made weights that are NaN or infinite, though every gradient was finite; they were not saved. "
            "Usual causes: a learning rate that is too high, or an optimizer_type or optimizer_args unfit for it. "
            "Resume from the last state with a lower learning rate (and resume_with_changes = true).",
            Exit.BROKEN_VALUES,
        )


def _check_network(groups: FlatGroups, values: Mapping[str, Tensor], source: str) -> None:
    shapes = {name: tuple(value.shape) for name, value in values.items()}
    wanted = {str(index): tuple(group.values.shape) for index, group in enumerate(groups)}
    if shapes != wanted:
        raise UserError(
            f"the state in {source} holds another network: {shapes} trained values, this run has {wanted}. "
            "Resume with the network settings that the state was saved with."
        )


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True).contiguous()
