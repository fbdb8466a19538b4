"""Tensors from files into parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def copy_into(targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor], optional: Sequence[str] = ()) -> None:
    """Copy each of `tensors` into the target of its name, in place.

    Raises:
        ValueError: a name is missing or unknown, or a shape differs.
    """
    missing = targets.keys() - tensors.keys()
    unknown = tensors.keys() - targets.keys() - set(optional)
    if missing or unknown:
        raise ValueError(f"missing {sorted(missing)}, unknown {sorted(unknown)}")
    for name, target in targets.items():
        if tensors[name].shape != target.shape:
            raise ValueError(f"{name} has the shape {list(tensors[name].shape)} instead of {list(target.shape)}")
        if not tensors[name].is_floating_point():
            raise ValueError(f"{name} holds {str(tensors[name].dtype).removeprefix('torch.')} instead of fractions")
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(tensors[name])
