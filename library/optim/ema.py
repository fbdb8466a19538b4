"""A running average of the trained parameters, which often makes better pictures than their last values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from library.core.errors import UserError
from library.optim.flat import FlatGroup


class ExponentialAverage:
    """An exponential moving average over flat groups.

    Args:
        groups: what is averaged; the average begins at their present values.
        decay: share of the old average that stays at each update, once warmed up.
    """

    def __init__(self, groups: Sequence[FlatGroup], decay: float) -> None:
        self.groups, self.decay = list(groups), decay
        self.averages = [group.values.clone() for group in self.groups]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the parameters after update `step` (from 0) into the average."""
        share = 1 - decay_at(step, self.decay)
        for average, group in zip(self.averages, self.groups, strict=True):
            average.lerp_(group.values, share)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within the block the parameters hold the average; after it their own values again, bit for bit."""
        kept = [group.values.clone() for group in self.groups]
        _fill(self.groups, self.averages)
        try:
            yield
        finally:
            _fill(self.groups, kept)

    def state(self) -> dict[str, Tensor]:
        """The averages on the CPU, by the group's number."""
        return {str(number): average.to("cpu", copy=True) for number, average in enumerate(self.averages)}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what `state` gave.

        Raises:
            UserError: it is the average of other groups.
        """
        for number, (group, average) in enumerate(zip(self.groups, self.averages, strict=True)):
            saved = tensors.get(str(number))
            if saved is None or saved.shape != average.shape:
                raise UserError(
                    f"the saved average does not fit the parameter group '{group.name}'; resume with the same network, or without ema_decay."
                )
            average.copy_(saved)


def decay_at(step: int, decay: float) -> float:
    """min(decay, (1 + step) / (10 + step)): the average forgets the untrained start quickly."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def _fill(groups: Sequence[FlatGroup], values: Sequence[Tensor]) -> None:
    for group, new in zip(groups, values, strict=True):
        group.values.copy_(new)
