"""How many singular values of a layer's change to keep.

The rules are those of sd-scripts' `resize_lora.py`, whose words for them are `sv_ratio`, `sv_cumulative` and `sv_fro`; the share
of the energy is `sv_fro` without the root.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Method = Literal["ratio", "cumulative", "frobenius", "energy"]

NOTHING = 1e-6
"""A change whose largest singular value is no more than this is taken for none; it keeps the rank 1."""


@dataclass(frozen=True)
class RankRule:
    """A rank for every layer, or one that follows from its singular values."""

    linear: int
    """Highest rank of linears and 1x1 convolutions."""
    conv: int
    """Highest rank of larger convolutions."""
    method: Method | None = None
    """None: exactly the highest rank."""
    parameter: float = 0.0

    def highest(self, weight_shape: tuple[int, ...]) -> int:
        """Highest rank for a weight of this shape."""
        return self.conv if any(side > 1 for side in weight_shape[2:]) else self.linear

    def rank(self, values_R: Tensor, weight_shape: tuple[int, ...]) -> int:
        """For a layer with these singular values, at least 1.

        Args:
            weight_shape: of the layer's weight.
        """
        highest = self.highest(weight_shape)
        if not len(values_R) or values_R[0] <= NOTHING:
            return 1
        wanted = len(values_R) if self.method is None else needed(values_R, self.method, self.parameter)
        return max(1, min(wanted, highest, len(values_R)))


def needed(values_R: Tensor, method: Method, parameter: float) -> int:
    """The smallest rank that satisfies a rule.

    ratio: the values above the largest / parameter. cumulative: their sum is that share of the sum of all. energy: the sum of
    their squares is that share of all squares. frobenius: its root is, which is the share of the Frobenius norm.
    """
    values = values_R.double()
    if method == "ratio":
        return int((values > values[0] / parameter).sum())
    shares = (values if method == "cumulative" else values.square()).cumsum(0)
    share = parameter**2 if method == "frobenius" else parameter
    return int(torch.searchsorted(shares / shares[-1], share)) + 1
