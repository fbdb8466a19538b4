"""Frozen weights kept in fewer bits, and made whole again for each product that needs them.

Only the weights are packed; activations stay as they are. The whole weight lives for one product, forwards and again
backwards, so what a layer computes, and the gradient that goes through it, is exactly that of a plain layer with the
unpacked weight. Letters: O outputs, I inputs, N weights of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

ENDS = ("conv_in", "conv_out", "time_embedding", "add_embedding", "text_projection")
"""Layers at a model's ends: a thousandth of its weights, through which passes all that the others see."""


class Packed(NamedTuple):
    """A weight in fewer bits."""

    values: Tensor
    scale: Tensor


class Packing(Protocol):
    """A way to keep a weight."""

    def empty(self, shape: torch.Size, device: torch.device) -> Packed:
        """Room for what `pack` makes of a weight of this shape."""
        ...

    def pack(self, weight: Tensor) -> Packed:
        """A weight (O, I) or (O, I, kh, kw), fp32, packed on its own device."""
        ...

    def unpack(self, packed: Packed, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """The weight again, rounded."""
        ...


@dataclass(frozen=True)
class OneScaleARow:
    """8 bits a weight; each output's largest weight is the largest value of the type."""

    dtype: torch.dtype
    peak: float

    def empty(self, shape: torch.Size, device: torch.device) -> Packed:
        """As `pack`."""
        scale = torch.empty(shape[0], *[1] * (len(shape) - 1), device=device)
        return Packed(torch.empty(shape, dtype=self.dtype, device=device), scale)

    def pack(self, weight: Tensor) -> Packed:
        """values like the weight, scale (O, 1, ...) fp32."""
        low, high = torch.aminmax(weight.flatten(1), dim=1)
        largest = torch.maximum(-low, high).clamp(min=torch.finfo(torch.float32).tiny * self.peak)
        scale = (largest / self.peak).view(-1, *[1] * (weight.dim() - 1))
        scaled = weight / scale
        return Packed((scaled if self.dtype.is_floating_point else scaled.round_()).to(self.dtype), scale)

    def unpack(self, packed: Packed, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """values · scale, rounded once."""
        values, scale = packed
        return values.to(dtype).mul_(scale)  # the values are exact in any type, so this rounds once


class NormalFloat:
    """4 bits a weight, NF4 (Dettmers et al. 2023, section 3), and a scale for each 64 weights; by bitsandbytes.

    The scales are not packed in their turn: that saves 0.4 bits a weight and costs two more kernels a product.
    """

    BLOCK = 64

    def empty(self, shape: torch.Size, device: torch.device) -> Packed:
        """As `pack`."""
        count = shape.numel()
        values = torch.empty(-(-count // 2), 1, dtype=torch.uint8, device=device)
        return Packed(values, torch.empty(-(-count // self.BLOCK), device=device))

    def pack(self, weight: Tensor) -> Packed:
        """values (N/2, 1) uint8, scale (N/64,) fp32."""
        from bitsandbytes.functional import quantize_4bit

        values, state = quantize_4bit(
            weight.contiguous(), blocksize=self.BLOCK, compress_statistics=False, quant_type="nf4"
        )
        return Packed(values, state.absmax)

    def unpack(self, packed: Packed, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """By table and scale."""
        from bitsandbytes.functional import QuantState, dequantize_4bit

        flat = torch.Size((shape.numel(),))  # its CPU kernel is wrong where a row is no whole number of blocks (0.50)
        state = QuantState(packed.scale, shape=flat, dtype=dtype, blocksize=self.BLOCK, quant_type="nf4")
        return dequantize_4bit(packed.values, state).view(shape)


PACKINGS: dict[str, Packing] = {
    "int8": OneScaleARow(torch.int8, 127),
    "fp8": OneScaleARow(torch.float8_e4m3fn, 448),
    "nf4": NormalFloat(),
}
"""By the names that `quantize_base` takes; "none" is none of them."""


class _FrozenProduct(torch.autograd.Function):
    """A layer's product, which keeps the packed weight for the gradient of x and neither x nor the whole weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantisedLinear | QuantisedConv2d, values: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(values, scale)
        ctx.layer, ctx.shape = layer, x.shape
        return layer.product(x, layer.packing.unpack(Packed(values, scale), layer.shape, x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        layer = ctx.layer
        weight = layer.packing.unpack(Packed(*ctx.saved_tensors), layer.shape, grad.dtype)
        return layer.input_gradient(grad, weight, ctx.shape), None, None, None


def _product_with_packed(layer: QuantisedLinear | QuantisedConv2d, input: Tensor) -> Tensor:
    """(..., I) -> (..., O), or (B, I, h, w) -> (B, O, h', w')."""
    result: Tensor = _FrozenProduct.apply(input, layer, layer.weight, layer.weight_scale)
    return result


def unpacked_weight(layer: QuantisedLinear | QuantisedConv2d, dtype: torch.dtype) -> Tensor:
    """The whole weight that the layer computes with."""
    return layer.packing.unpack(Packed(layer.weight, layer.weight_scale), layer.shape, dtype)


class QuantisedLinear(nn.Linear):
    """A frozen linear layer; `weight` holds the packed values."""

    packing: Packing
    weight_scale: Tensor
    forward = _product_with_packed
    whole_weight = unpacked_weight

    @property
    def shape(self) -> torch.Size:
        """Of the whole weight."""
        return torch.Size((self.out_features, self.in_features))

    def product(self, x: Tensor, weight_OI: Tensor) -> Tensor:
        """The layer's output with this weight."""
        return F.linear(x, weight_OI, self.bias)

    def input_gradient(self, grad: Tensor, weight_OI: Tensor, shape: torch.Size) -> Tensor:
        """From the output's gradient (..., O) to that of x."""
        return grad @ weight_OI


class QuantisedConv2d(nn.Conv2d):
    """A frozen convolution; `weight` holds the packed values."""

    packing: Packing
    weight_scale: Tensor
    forward = _product_with_packed
    whole_weight = unpacked_weight

    @property
    def shape(self) -> torch.Size:
        """Of the whole weight."""
        return torch.Size((self.out_channels, self.in_channels // self.groups, *self.kernel_size))

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer's output with this weight."""
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def input_gradient(self, grad: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        """From the output's gradient (B, O, h', w') to that of x."""
        return conv2d_input(shape, weight, grad, self.stride, self.padding, self.dilation, self.groups)


def quantisable(root: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """The layers whose weights may be packed, by path: linears and convolutions, but for those at the model's ends.

    Norms, biases and embeddings stay as they are: they are few, or are looked up and not multiplied.
    """
    for path, layer in root.named_modules():
        if type(layer) in (nn.Linear, nn.Conv2d) and path.partition(".")[0] not in ENDS:
            yield path, layer


def quantise(layer: nn.Linear | nn.Conv2d, packing: Packing, packed: Packed) -> None:
    """Turn a layer, in its place, into one that keeps this packed weight."""
    assert getattr(layer, "padding_mode", "zeros") == "zeros"
    layer.__class__ = QuantisedLinear if isinstance(layer, nn.Linear) else QuantisedConv2d
    layer.packing = packing  # type: ignore[assignment]
    layer.weight = nn.Parameter(packed.values, requires_grad=False)
    layer.register_buffer("weight_scale", packed.scale)


@torch.no_grad()
def fill_quantised(layer: nn.Module, packed: Packed) -> None:
    """Give a layer, quantised by `quantise`, its weight."""
    assert isinstance(layer, QuantisedLinear | QuantisedConv2d)
    layer.weight.copy_(packed.values)
    layer.weight_scale.copy_(packed.scale)
