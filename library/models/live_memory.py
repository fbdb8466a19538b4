"""How much memory a model's tensors take while it computes, found on the meta device: without weights, without numbers.

There every operation runs as it would on the real device, but that its results have shapes and types and no contents. So what
is alive when, with the graph that the backward pass needs, is exactly what it will be.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten

CUDA_BLOCK = 512
"""Bytes to which torch's allocator for GPUs rounds up."""

QUESTIONS = {aten.any.default: False, aten.any.dim: False, aten.all.default: True, aten.all.dim: True}
"""What a run asks of its numbers (is one not finite, are all?), and the answers of one in which nothing is wrong."""

Workspace = Callable[[Any, tuple[Any, ...], Any], int]
"""(operation, its arguments, its result) -> bytes that it takes beside them for the time it runs."""


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of every tensor that is made while it is open, until nobody holds it.

    Args:
        device: type of the device whose tensors are counted.
        block: bytes to which each tensor's memory is rounded up.
        workspace: what operations take beside their arguments and results.
    """

    def __init__(self, device: str = "meta", block: int = 1, workspace: Workspace | None = None) -> None:
        super().__init__()
        self.live = 0
        """Bytes now."""
        self.peak = 0
        """Most bytes since the start, or since `restart`."""
        self._device, self._block, self._workspace = device, block, workspace
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def restart(self) -> None:
        """Look for a new peak from now on."""
        self.peak = self.live

    def hold(self, tensors: Iterable[Tensor]) -> int:
        """Count tensors that were made outside, each memory once; returns the bytes that are new."""
        before = self.live
        for tensor in tensors:
            self._count(tensor.untyped_storage())
        return self.live - before

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in QUESTIONS and result.device.type == "meta":
            return torch.full(result.shape, QUESTIONS[func], dtype=result.dtype)
        for found in (result,) if isinstance(result, Tensor) else tree_leaves(result):
            if isinstance(found, Tensor) and found.device.type == self._device:
                self._count(found.untyped_storage())
        if self._workspace is not None:
            self.peak = max(self.peak, self.live + self._workspace(func, args, result))
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._storages:
            return
        size = -(-storage.nbytes() // self._block) * self._block

        def forget(reference: object) -> None:
            self.live -= size
            del self._storages[key]

        self._storages[key] = weakref.ref(storage, forget)
        self.live += size
        self.peak = max(self.peak, self.live)


class OneDnn:
    """What oneDNN takes for convolutions and for products in half precision on a CPU, beside tensors."""

    def __init__(self) -> None:
        self._kernels: set[tuple[object, ...]] = set()

    @property
    def kernels(self) -> int:
        """Different products so far: each is compiled once, and kept."""
        return len(self._kernels)

    def workspace(self, func: Any, args: tuple[Any, ...], result: Any) -> int:
        """A convolution works on copies, in an order of its own, of what it reads and writes."""
        if func is aten.convolution.default:
            operands = (args[0], args[1], result)
        elif func is aten.convolution_backward.default:
            operands = (args[0], args[2], result[0])
        elif func in (aten.mm.default, aten.addmm.default, aten.addmm_.default, aten.bmm.default):
            if result.dtype != torch.float32:
                self._remember(func, args)
            return 0
        else:
            return 0
        self._remember(func, operands)
        return sum(operand.nbytes for operand in operands if operand is not None)

    def _remember(self, func: Any, operands: tuple[Any, ...]) -> None:
        shapes = (tuple(each.shape) for each in operands if isinstance(each, Tensor))
        self._kernels.add((func, *shapes))


@contextmanager
def fused_attention() -> Iterator[None]:
    """Within the block attention on the meta device is a fused kernel, as it is on real devices.

    Left to itself torch writes it out there, with the whole matrix of every query and key.
    """
    former = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = _fused_attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = former


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """(B, heads, T, C); besides it one number for each query is kept for the backward pass."""
    output, _ = aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale
    )
    return output
