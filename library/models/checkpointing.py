"""Gradient checkpointing: what the backward pass computes again instead of keeping it.

Whole: every resnet and transformer block keeps its input alone. Selective: everything is kept but the outputs of norms,
activation functions and gates, about 40% of the bytes and a hundredth of the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

RECENT = 4
"""Cheap outputs that are remembered: whoever keeps one comes right after."""

CHEAP = (nn.GroupNorm, nn.LayerNorm, nn.SiLU)


def checkpoint_unet(unet: Any, selective: bool, random: bool) -> None:
    """Recompute the UNet's activations in the backward pass.

    Args:
        selective: only what is cheap.
        random: random numbers are drawn inside, so that the generator's state has to be brought back for the second time.
    """
    if selective:
        Recomputation().enter(unet)
        return

    def run(block: nn.Module, *inputs: object) -> object:
        return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=random)

    unet.enable_gradient_checkpointing(gradient_checkpointing_func=run)


def checkpoint_text_encoder(encoder: Any, random: bool) -> None:
    """Recompute the activations of the encoder's layers in the backward pass.

    transformers does so only for layers in training mode. Their dropouts are children, and stay in eval mode.
    """
    # transformers 5 calls it activation checkpointing, 4 gradient checkpointing
    enable = getattr(encoder, "activation_checkpointing_enable", None) or encoder.gradient_checkpointing_enable
    enable({"use_reentrant": False, "preserve_rng_state": random})
    for layer in getattr(encoder, "text_model", encoder).encoder.layers:
        layer.training = True


class Recipe:
    """How to make a tensor again; it lives as long as autograd needs the tensor."""

    def __init__(self, compute: Callable[[Tensor], Tensor], source: Any) -> None:
        self._compute = compute
        self._source = source
        self._version = source._version if isinstance(source, Tensor) else 0
        self._again: Tensor | None = None

    def output(self) -> Tensor:
        """The tensor, computed once however many ask for it."""
        if self._again is None:
            assert not isinstance(self._source, Tensor) or self._source._version == self._version, "changed in place"
            with torch.no_grad():
                self._again = self._compute(unpack(self._source))
        return self._again


class Recomputation:
    """Replaces, in what autograd keeps of a forward pass, cheap outputs by the way to compute them again.

    Unlike torch's checkpoints it repeats nothing else, whatever lies between the cheap outputs.
    """

    def __init__(self) -> None:
        self._active = False
        self._recent: dict[int, tuple[Recipe, Tensor]] = {}
        """Address of the memory of an output -> how it was made, and the output."""

    def enter(self, unet: nn.Module) -> None:
        """Watch over the UNet's forward passes from now on."""
        for module in unet.modules():
            if isinstance(module, CHEAP):
                module.forward = partial(self.cheap, module.forward)  # type: ignore[method-assign]
            elif type(module).__name__ == "GEGLU":
                module.forward = partial(self._gated, module.proj)  # type: ignore[arg-type]
        former = unet.forward

        def forward(*inputs: Any, **named: Any) -> Any:
            if not torch.is_grad_enabled():
                return former(*inputs, **named)
            self._active = True
            try:
                with saved_tensors_hooks(self.pack, unpack):
                    return former(*inputs, **named)
            finally:
                self._active = False
                self._recent.clear()

        unet.forward = forward

    def cheap(self, compute: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """compute(x), whose output will not be kept. `compute` reads nothing else that changes."""
        output = compute(x)
        if self._active and output.requires_grad:
            while len(self._recent) >= RECENT:
                del self._recent[next(iter(self._recent))]
            recipe = Recipe(compute, self.pack(x.detach()))
            self._recent[output.untyped_storage().data_ptr()] = recipe, output.detach()
        return output

    def pack(self, tensor: Tensor) -> Any:
        """What is kept of a tensor: itself, or a recipe and which view of its output the tensor is."""
        # while an output is held, no other tensor is given its address
        recipe, output = self._recent.get(tensor.untyped_storage().data_ptr(), (None, None))
        if output is None or tensor.dtype != output.dtype or output._version > 0:
            return tensor
        return recipe, tensor.size(), tensor.stride(), tensor.storage_offset()

    def _gated(self, project: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """GEGLU (Shazeer 2020): the first half of a projection times the GELU of the second."""
        return self.cheap(self._gate, project(x))

    def _gate(self, both: Tensor) -> Tensor:
        values, gates = both.chunk(2, dim=-1)
        return values * self.cheap(F.gelu, gates)


def unpack(kept: Any) -> Tensor:
    """The tensor that `Recomputation.pack` saw."""
    if isinstance(kept, Tensor):
        return kept
    recipe, size, stride, offset = kept
    return recipe.output().as_strided(size, stride, offset)
