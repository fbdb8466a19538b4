"""Trained parameters side by side in one buffer per group, and their gradients in another.

An elementwise optimizer then sees one large tensor instead of hundreds of small ones: one 8-bit state, one kernel, one
all-reduce, one norm. The modules keep their own parameters, which become windows into the buffers; autograd adds into the
gradient windows in place, over as many backward passes as there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor, nn

BLOCK = 256
"""Elements to which every tensor's place is aligned: bitsandbytes' quantisation block, so that no block mixes two tensors."""


class NamedGroup(Protocol):
    """Parameters that share a learning rate, as a network hands them over."""

    @property
    def name(self) -> str: ...
    @property
    def parameters(self) -> Sequence[nn.Parameter]: ...
    @property
    def lr(self) -> float: ...


class FlatGroup:
    """One group's parameters in one buffer; padding between them stays zero.

    Move the network to its device before. Never set a parameter's `.grad` to None: `zero_grad` clears the whole buffer.

    Args:
        name: shown in logs.
        parameters: fp32, on one device.
        lr: their learning rate, before any schedule.
    """

    def __init__(self, name: str, parameters: Sequence[nn.Parameter], lr: float) -> None:
        assert parameters, f"parameter group '{name}' is empty"
        assert all(parameter.dtype == torch.float32 for parameter in parameters), "trained parameters are fp32"
        self.name, self.parameters, self.lr = name, list(parameters), lr
        places, size = _places(self.parameters)
        self.values = torch.zeros(size, device=self.parameters[0].device)
        """(N,) every value."""
        self.gradients = torch.zeros_like(self.values)
        """(N,) every gradient."""
        for parameter, start in zip(self.parameters, places, strict=True):
            _move_into(parameter, self.values, self.gradients, start)
        self.flat_parameter = nn.Parameter(self.values)
        """What an elementwise optimizer is given; shares both buffers."""
        self.flat_parameter.grad = self.gradients

    def zero_grad(self) -> None:
        """Clear the gradients in place."""
        self.gradients.zero_()


def flatten(groups: Iterable[NamedGroup]) -> list[FlatGroup]:
    """Each group's parameters moved into flat storage."""
    groups = list(groups)
    identities = [id(parameter) for group in groups for parameter in group.parameters]
    assert len(identities) == len(set(identities)), "a parameter is in two groups"
    return [FlatGroup(group.name, group.parameters, group.lr) for group in groups]


def gradient_norm(groups: Sequence[FlatGroup]) -> Tensor:
    """The Euclidean norm of all gradients together, 0-d, left on the device."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(group.gradients) for group in groups]))


def clip_gradients(groups: Sequence[FlatGroup], norm: Tensor, maximum: float) -> None:
    """Scale the gradients so that their norm, now `norm`, is at most `maximum` (Pascanu et al. 2013), without reading it back."""
    factor = (maximum / (norm + 1e-6)).clamp(max=1.0)
    for group in groups:
        group.gradients.mul_(factor)


def _places(parameters: Sequence[nn.Parameter]) -> tuple[list[int], int]:
    """Where each parameter starts, and the size of the whole."""
    *places, size = accumulate((-(-parameter.numel() // BLOCK) * BLOCK for parameter in parameters), initial=0)
    return places, size


def _move_into(parameter: nn.Parameter, values: Tensor, gradients: Tensor, start: int) -> None:
    window = values[start : start + parameter.numel()].view(parameter.shape)
    window.copy_(parameter.detach())
    parameter.data = window
    parameter.grad = gradients[start : start + parameter.numel()].view(parameter.shape)
