"""Whether a resumed run goes on as if it had not been interrupted."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from library.core.errors import UserError
from library.training.state.snapshot import Snapshot

TOLERANCE = 0.1
"""Norm of the difference between two updates that do the same on a GPU, as a share of the update's. Sums in atomic additions come
in any order there, and Adam makes much of gradients that are all but zero; without its state the difference is about 1."""


def compare(resumed: Snapshot, whole: Snapshot, before: Snapshot, exact: bool) -> str:
    """How the resumed step compares with the same step of the run that went on, in words.

    Args:
        before: that both started from.
        exact: whether they must be the same bit for bit.

    Raises:
        UserError: they are not the same.
    """
    differing = [
        f"{part}: {name}"
        for part, tensors in whole.tensors.items()
        for name, tensor in tensors.items()
        if not _equal(resumed.tensors.get(part, {}).get(name), tensor)
    ]
    if not differing:
        return "bitwise the same step"
    share = max(
        relative_difference(*(_floating(each.tensors[part]) for each in (resumed, whole, before)))
        for part in ("network", "optimizer")
    )
    if exact or not share <= TOLERANCE:
        raise UserError(
            f"a resumed run does not go on as the run would have: the step after the save differs by {share:.2g} of itself "
            f"({', '.join(differing[:3])}). Something of the network or the optimizer is not in the saved state: its random "
            "numbers, or what it counts. Choose another network_module or optimizer_type; this one must never be interrupted."
        )
    return f"the same step within {share:.1g} of it"


def relative_difference(
    resumed: Mapping[str, Tensor], whole: Mapping[str, Tensor], before: Mapping[str, Tensor]
) -> float:
    """|resumed - whole| / |whole - before|, over all tensors; of what the step has not moved, by its own norm."""
    if not whole or whole.keys() != resumed.keys():
        return 0.0 if whole.keys() == resumed.keys() else math.inf
    off, norm = _norm(whole, resumed), _norm(whole, before)
    return 0.0 if off == 0 else off / (norm or _norm(whole, {}) or off)


def _norm(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Of one - other, where what other lacks is zero."""
    parts = [each.float() - other[name].float() if name in other else each.float() for name, each in one.items()]
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part) for part in parts])))


def _floating(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those that hold numbers; a quantised state holds places in a table."""
    return {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}


def _equal(found: Tensor | None, expected: Tensor) -> bool:
    return found is not None and found.shape == expected.shape and torch.equal(found, expected)
