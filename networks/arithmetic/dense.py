"""Changes of a weight that are built anew from small factors whenever x is multiplied by them.

    y = base(x) + m · scale · change(factors) x

A change is as large as its host's weight, and a model has hundreds: only x and the factors are kept for the backward pass,
which builds the change again. It is never added to the weight, where half precision would round small changes away.
Letters: I inputs, O outputs, N rows; (h, w) the size of an image, (kh, kw) that of a kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from networks.algorithm import Base, ForwardContext, Size
from networks.arithmetic.side_path import alpha_or, rescaling
from networks.tensors import copy_into

Parts = tuple[Tensor, ...]


class Form(Protocol):
    """How the factors of a site make up the change of its weight, linear in each of them."""

    scaled: bool
    """Whether alpha / rank scales the change."""

    def parts(self, *factors: Tensor) -> Parts:
        """What x is multiplied by: the change itself, or matrices whose product it is."""
        ...

    def product(self, x: Tensor, parts: Parts) -> Tensor:
        """x times the change, with the geometry of the host."""
        ...

    def gradients(self, grad: Tensor, x: Tensor, parts: Parts) -> Parts:
        """Of x and of the parts, where `grad` is that of the product."""
        ...

    def change(self, parts: Parts) -> Tensor:
        """The change in the shape of the host's weight."""
        ...

    def norm(self, parts: Parts) -> Tensor:
        """The Frobenius norm of the change, a 0-d tensor."""
        ...


@dataclass(frozen=True)
class ChangeDropouts:
    """Probabilities of leaving out outputs of the change, and the whole of it; 0 is off."""

    outputs: float = 0.0
    module: float = 0.0

    @property
    def any(self) -> bool:
        """Whether one of them is on."""
        return max(self.outputs, self.module) > 0

    def __call__(self, change: Tensor, output_axis: int) -> Tensor:
        """What the change adds, with outputs left out for the whole batch; kept ones are scaled up by 1 / (1 - p).

        A kept module is not scaled up. Both as in sd-scripts.
        """
        if self.outputs > 0:
            shape = [1] * change.dim()
            shape[output_axis] = change.shape[output_axis]
            change = change * F.dropout(change.new_ones(shape), self.outputs)
        if self.module > 0:
            change = change * (torch.rand((), device=change.device) >= self.module)
        return change


class FactoredAdapter(nn.Module):
    """The factors of one site, which are its parameters, under the names that they have in files.

    Args:
        form: what they make up.
        factors: their first values.
    """

    def __init__(
        self,
        host: nn.Linear | nn.Conv2d,
        form: Form,
        factors: Mapping[str, Tensor],
        size: Size,
        dropouts: ChangeDropouts,
    ) -> None:
        super().__init__()
        self.form = form
        self.size = size if form.scaled else Size(size.rank, float(size.rank))
        self.dropouts = dropouts
        self.output_axis = -1 if isinstance(host, nn.Linear) else 1
        for name, value in factors.items():
            self.register_parameter(name, nn.Parameter(value.to(host.weight.device)))

    def forward(self, x: Tensor, base: Base, context: ForwardContext) -> Tensor:
        """The host's output plus that of the change."""
        change = multiply(x, self.form, list(self.parameters()), self.size.scale * context.multiplier)
        if self.training and self.dropouts.any:
            change = self.dropouts(change, self.output_axis)
        y = base(x)
        return y.add_(change) if base.plain else y + change

    def delta(self) -> Tensor:
        """The change in the shape of the host's weight."""
        return self.form.change(self.form.parts(*self.parameters())) * self.size.scale

    def norm(self) -> Tensor:
        """As the form has it."""
        return self.form.norm(self.form.parts(*self.parameters())) * self.size.scale

    def tensors(self) -> dict[str, Tensor]:
        """The factors and alpha."""
        return {**dict(self.named_parameters()), "alpha": torch.tensor(float(self.size.alpha))}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the factors; where the file's alpha is another, the last is rescaled so that the change is the file's."""
        factor = rescaling(alpha_or(tensors, self.size.rank), self.size.alpha)
        copy_into(dict(self.named_parameters()), tensors, optional=("alpha",))
        if self.form.scaled and factor != 1:
            with torch.no_grad():
                list(self.parameters())[-1].mul_(factor)

    def scale_delta(self, factor: Tensor) -> None:
        """Each of n factors times the n-th root."""
        factors = list(self.parameters())
        with torch.no_grad():
            for each in factors:
                each.mul_(factor ** (1 / len(factors)))


def multiply(x: Tensor, form: Form, factors: Sequence[Tensor], scale: float) -> Tensor:
    """x times scale · change, in x's type; the factors get their gradients in their own."""
    result: Tensor = _Multiply.apply(x, form, scale, *factors)
    return result


class _Multiply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, form: Form, scale: float, *factors: Tensor) -> Tensor:
        ctx.save_for_backward(x, *factors)
        ctx.form, ctx.scale = form, scale
        parts = form.parts(factors[0] * scale, *factors[1:])
        return form.product(x, tuple(part.to(x.dtype) for part in parts))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *factors = ctx.saved_tensors
        form, scale = ctx.form, ctx.scale
        parts, pull = torch.func.vjp(lambda first, *rest: form.parts(first * scale, *rest), *factors)  # type: ignore[misc]
        grad_x, *grad_parts = form.gradients(grad, x, tuple(part.to(x.dtype) for part in parts))
        of_parts = tuple(of_part.to(part.dtype) for of_part, part in zip(grad_parts, parts, strict=True))
        return grad_x, None, None, *pull(of_parts)


@dataclass(frozen=True, eq=False)
class HostProduct:
    """The product of a layer with another weight in the place of its own."""

    host: nn.Linear | nn.Conv2d

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """Without the bias."""
        if isinstance(self.host, nn.Linear):
            return F.linear(x, weight)
        host = self.host
        return F.conv2d(x, weight, None, host.stride, host.padding, host.dilation, host.groups)

    def gradients(self, grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Of x and of the weight."""
        if isinstance(self.host, nn.Linear):
            grad_NO, x_NI = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
            return torch.mm(grad_NO, weight).view(x.shape), torch.mm(grad_NO.t(), x_NI)
        host = self.host
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, host.stride, host.padding, host.dilation, False, [0, 0], host.groups, [True, True, False]
        )  # fmt: skip
        return grad_x, grad_weight


def weight_shape(host: nn.Linear | nn.Conv2d) -> tuple[int, ...]:
    """(O, I) or (O, I, kh, kw), of quantised layers too, whose `weight` has another shape."""
    if isinstance(host, nn.Linear):
        return host.out_features, host.in_features
    return host.out_channels, host.in_channels // host.groups, *host.kernel_size
