"""What a phase of the run computes, operator by operator, counted on the meta device: how many of each, how much arithmetic, how
many bytes are read and written. It depends on no machine; with a machine's speeds it becomes seconds.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten

Kind = Literal["product", "convolution", "attention", "other", "view"]


class Operation(NamedTuple):
    """What operators that take the same time have in common."""

    kind: Kind
    dtype: torch.dtype
    """Of the result."""
    flops: int
    """Multiplications and additions."""
    bytes: int
    """Read and written."""


Work = Counter[Operation]

PRODUCTS = (aten.mm, aten.addmm, aten.addmm_, aten.bmm, aten.baddbmm)
CONVOLUTIONS = (aten.convolution, aten.convolution_backward)
ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu
ATTENTION_BACKWARD = aten._scaled_dot_product_flash_attention_for_cpu_backward


class Tally(TorchDispatchMode):
    """Counts what is computed while it is open, on any device."""

    def __init__(self) -> None:
        super().__init__()
        self.work: Work = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.work[operation(func, args, kwargs or {}, result)] += 1
        return result


def operation(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Operation:
    """What one call of an operator computes."""
    made = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
    dtype = made[0].dtype if made else torch.float32
    if func.is_view or not made:
        return Operation("view", dtype, 0, 0)
    read = (each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor))
    moved = sum(each.nbytes for each in (*read, *made))
    packet = func.overloadpacket
    if packet in PRODUCTS:
        return Operation("product", dtype, _flops(packet, args, kwargs, result), moved)
    if packet in CONVOLUTIONS:
        return Operation("convolution", dtype, flop_registry[packet](*args, **kwargs, out_val=result), moved)
    if packet is ATTENTION:
        return Operation("attention", dtype, sdpa_flop_count(*(each.shape for each in args[:3])), moved)
    if packet is ATTENTION_BACKWARD:
        return Operation("attention", dtype, sdpa_backward_flop_count(*(each.shape for each in args[:4])), moved)
    return Operation("other", dtype, 0, moved)


def _flops(packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
    """Of a product; in place it is that of its namesake."""
    return flop_registry[aten.addmm if packet is aten.addmm_ else packet](*args, **kwargs, out_val=result)
