"""A change of a weight as the product of two thin matrices, and what can be done with it without ever building the product.

Letters: O outputs, N inputs (of a convolution: input channels x kernel), R rank.

The singular value decomposition of B A with B (O, R) and A (R, N) takes two QR decompositions and an R x R one: with
B = Q1 R1 and Aᵀ = Q2 R2, that of the core R1 R2ᵀ = U S Vᵀ gives B A = (Q1 U) S (Q2 V)ᵀ (Golub and Van Loan, Matrix
Computations, section 8.6). Cutting it off after r values is the best change of rank r, and what is lost is the values cut off
(Eckart and Young 1936).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from library.core.errors import UserError

PLAIN = frozenset({"lora_up.weight", "lora_down.weight", "alpha"})
"""The tensors of a LoRA that is nothing but up · down · alpha / rank."""


@dataclass(frozen=True, eq=False)
class Factors:
    """up · down, fp32; the strength is in `up`."""

    up_OR: Tensor
    down_RN: Tensor
    weight_shape: tuple[int, ...]
    """Of the weight that changes: (O, I) or (O, I, kernel height, kernel width)."""

    @property
    def rank(self) -> int:
        """Columns of `up`."""
        return self.up_OR.shape[1]

    @property
    def is_spatial(self) -> bool:
        """Whether the weight is a convolution's with a kernel larger than 1x1."""
        return any(side > 1 for side in self.weight_shape[2:])

    def dense(self) -> Tensor:
        """The change itself, in the weight's shape."""
        return (self.up_OR @ self.down_RN).view(self.weight_shape)

    def tensors(self, alpha: float, dtype: torch.dtype) -> dict[str, Tensor]:
        """The site's part of a LoRA file: name after its key -> tensor. alpha / rank is taken out of `up`.

        Raises:
            UserError: values that are too large for `dtype`.
        """
        kernel = self.weight_shape[2:]
        up = (self.up_OR * (self.rank / alpha)).to(dtype)
        if not up.isfinite().all():
            raise UserError(
                f"the result has values that do not fit into {str(dtype).removeprefix('torch.')}: give --dtype fp32."
            )
        return {
            "lora_up.weight": up.reshape(*up.shape, *[1] * len(kernel)).contiguous(),
            "lora_down.weight": self.down_RN.to(dtype).reshape(self.rank, self.weight_shape[1], *kernel).contiguous(),
            "alpha": torch.tensor(float(alpha)),
        }


@dataclass(frozen=True, eq=False)
class Decomposition:
    """Singular values of a change, the largest first, with their vectors."""

    left_OR: Tensor
    values_R: Tensor
    right_RN: Tensor
    weight_shape: tuple[int, ...]
    energy: float
    """Sum of the squares of all singular values, those that are not here included: the squared Frobenius norm."""

    def kept(self, rank: int) -> float:
        """Sum of the squares of the first `rank` values."""
        return float(self.values_R[:rank].double().square().sum())

    def truncated(self, rank: int) -> Factors:
        """The nearest change of this rank; the values are shared between both factors, so that neither is tiny in fp16."""
        roots_R = self.values_R[:rank].sqrt()
        return Factors(self.left_OR[:, :rank] * roots_R, roots_R[:, None] * self.right_RN[:rank], self.weight_shape)


def factors_in_file(tensors: Mapping[str, Tensor]) -> Factors | None:
    """The change that a site's tensors make, None where they are not a plain LoRA's.

    Raises:
        ValueError: they are, and do not fit together.
    """
    if "lora_down.weight" not in tensors or tensors.keys() - PLAIN:
        return None
    if "lora_up.weight" not in tensors:
        raise ValueError("lora_up.weight is missing")
    down, up = tensors["lora_down.weight"], tensors["lora_up.weight"]
    if not (down.is_floating_point() and up.is_floating_point()):
        raise ValueError("lora_up.weight and lora_down.weight hold no fractions")
    fitting = down.dim() in (2, 4) and up.dim() == down.dim() and up.shape[1] == down.shape[0]
    if not fitting or up.shape[2:].numel() != 1 or 0 in (*up.shape, *down.shape):
        raise ValueError(f"lora_up.weight {list(up.shape)} and lora_down.weight {list(down.shape)} do not fit together")
    alpha = alpha_in_file(tensors)
    rank = down.shape[0]
    scale = 1.0 if alpha is None else alpha / rank
    factors = Factors(up.float().flatten(1) * scale, down.float().flatten(1), (up.shape[0], *down.shape[1:]))
    if not (factors.up_OR.isfinite().all() and factors.down_RN.isfinite().all()):
        raise ValueError("it holds values that are not finite")
    return factors


def alpha_in_file(tensors: Mapping[str, Tensor]) -> float | None:
    """The alpha among a site's tensors, None where there is none.

    Raises:
        ValueError: it is not one finite number.
    """
    alpha = tensors.get("alpha")
    if alpha is None:
        return None
    if alpha.numel() != 1 or alpha.is_complex() or not math.isfinite(alpha):
        raise ValueError("alpha is not one finite number")
    return float(alpha)


def joined(parts: Sequence[Factors]) -> Factors:
    """The sum of changes of one weight, exactly: factors side by side, so that the ranks add up."""
    return Factors(
        torch.cat([part.up_OR for part in parts], dim=1),
        torch.cat([part.down_RN for part in parts]),
        parts[0].weight_shape,
    )


def decomposed(factors: Factors) -> Decomposition:
    """All singular values, at most as many as the rank."""
    outer_OK, upper_KR = torch.linalg.qr(factors.up_OR)
    inner_NK, lower_KR = torch.linalg.qr(factors.down_RN.T)
    left, values, right = torch.linalg.svd(upper_KR @ lower_KR.T, full_matrices=False)
    return Decomposition(
        outer_OK @ left,
        values,
        right @ inner_NK.T,
        factors.weight_shape,
        energy=float(values.double().square().sum()),
    )
