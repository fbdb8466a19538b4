"""All trained parameters side by side in one buffer, and their gradients in another; a group is a window of each.

An elementwise optimizer then sees one large tensor a group instead of hundreds of small ones: one 8-bit state, one kernel,
one norm; and processes sum one buffer. The modules keep their own parameters, which become windows into the buffers; autograd
adds into the gradient windows in place, over as many backward passes as there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, Protocol

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
    """One group's parameters in one stretch of memory; padding between them stays zero.

    Move the network to its device before. Never set a parameter's `.grad` to None: `zero_grad` clears the whole stretch.

    Args:
        name: shown in logs.
        parameters: fp32, on one device.
        lr: their learning rate, before any schedule.
        values, gradients: (N,) zeros to lie in, N as `flat_size` says; None: memory of its own.
    """

    def __init__(
        self,
        name: str,
        parameters: Sequence[nn.Parameter],
        lr: float,
        values: Tensor | None = None,
        gradients: Tensor | None = None,
    ) -> None:
        assert parameters, f"parameter group '{name}' is empty"
        assert all(parameter.dtype == torch.float32 for parameter in parameters), "trained parameters are fp32"
        self.name, self.parameters, self.lr = name, list(parameters), lr
        places, size = _places(self.parameters)
        device = self.parameters[0].device
        self.values = torch.zeros(size, device=device) if values is None else values
        """(N,) every value."""
        self.gradients = torch.zeros(size, device=device) if gradients is None else gradients
        """(N,) every gradient."""
        for parameter, start in zip(self.parameters, places, strict=True):
            _move_into(parameter, self.values, self.gradients, start)
        self.flat_parameter = nn.Parameter(self.values)
        """What an elementwise optimizer is given; shares both stretches."""
        self.flat_parameter.grad = self.gradients

    def zero_grad(self) -> None:
        """Clear the gradients in place."""
        self.gradients.zero_()


class FlatGroups(Sequence[FlatGroup]):
    """Every group, in one buffer of values and one of gradients.

    Args:
        groups: not empty, on one device, no parameter in two of them.
    """

    def __init__(self, groups: Sequence[NamedGroup]) -> None:
        identities = [id(parameter) for group in groups for parameter in group.parameters]
        assert len(identities) == len(set(identities)), "a parameter is in two groups"
        *starts, size = accumulate((flat_size(group.parameters) for group in groups), initial=0)
        device = groups[0].parameters[0].device
        self.values = torch.zeros(size, device=device)
        """(N,) every value of every group."""
        self.summed = torch.zeros(size + BLOCK, device=device)
        """(N + BLOCK,) what processes sum: every gradient, then `extra`."""
        self.gradients = self.summed[:size]
        """(N,) every gradient of every group."""
        self.extra = self.summed[size:]
        """(BLOCK,) room for further numbers that are to be summed; whoever uses a place sets it anew."""
        self._groups = [
            FlatGroup(group.name, group.parameters, group.lr, self.values[start:end], self.gradients[start:end])
            for group, start, end in zip(groups, starts, [*starts[1:], size], strict=True)
        ]

    def __getitem__(self, index: Any) -> Any:
        return self._groups[index]

    def __len__(self) -> int:
        return len(self._groups)

    def zero_grad(self) -> None:
        """Clear the gradients in place."""
        self.gradients.zero_()

    def clip(self, norm: Tensor, maximum: float) -> None:
        """Scale the gradients so that their norm, now `norm`, is at most `maximum` (Pascanu et al. 2013), without reading it back."""
        self.gradients.mul_((maximum / (norm + 1e-6)).clamp(max=1.0))


def flatten(groups: Iterable[NamedGroup]) -> FlatGroups:
    """Each group's parameters moved into flat storage."""
    return FlatGroups(list(groups))


def gradient_norm(groups: Sequence[FlatGroup]) -> Tensor:
    """The Euclidean norm of all gradients together, 0-d, left on the device."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(group.gradients) for group in groups]))


def flat_size(parameters: Sequence[nn.Parameter]) -> int:
    """Elements that these parameters take in flat storage."""
    return _places(parameters)[1]


def _places(parameters: Sequence[nn.Parameter]) -> tuple[list[int], int]:
    """Where each parameter starts, and the size of the whole."""
    *places, size = accumulate((-(-parameter.numel() // BLOCK) * BLOCK for parameter in parameters), initial=0)
    return places, size


def _move_into(parameter: nn.Parameter, values: Tensor, gradients: Tensor, start: int) -> None:
    window = values[start : start + parameter.numel()].view(parameter.shape)
    window.copy_(parameter.detach())
    parameter.data = window
    parameter.grad = gradients[start : start + parameter.numel()].view(parameter.shape)
