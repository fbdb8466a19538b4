"""How strongly a LoRA changes each module, and on how many directions its change is spread, from its tensors alone.

Nothing of the size of a weight is built for a LoRA: with C = BᵀB and D = A Aᵀ, both R x R, |B A|² = <C, D>, and the squared
singular values of B A are the eigenvalues of Lᵀ D L where C = L Lᵀ. Letters: O outputs, N inputs, R rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from library.lora_files.low_rank.factors import alpha_in_file

NEEDS_BASE = frozenset({"dora_scale", "oft_blocks", "oft_diag"})
"""Tensors of networks whose change depends on the weight that they change."""

LARGEST_WEIGHT = 1 << 27
"""Numbers; that of SDXL has a quarter of it."""


@dataclass(frozen=True, eq=False)
class Strength:
    """One module's change."""

    rank: int | None
    """None where the kind of network has none."""
    alpha: float | None
    norm: float | None
    """Frobenius norm at strength 1; None where it depends on the base model's weights, or the kind is not known."""
    energies_R: Tensor | None = None
    """Squared singular values, the largest first, fp64; of LoRAs only."""


@torch.no_grad()
def strength_of(tensors: Mapping[str, Tensor]) -> Strength:
    """Of one module's tensors (names after its key).

    Raises:
        ValueError: their shapes do not fit together, or alpha is not one finite number.
    """
    alpha = alpha_in_file(tensors)
    try:
        if "lora_down.weight" in tensors:
            return _of_lora(tensors, alpha)
        if "hada_w1_a" in tensors:
            return _of_loha(tensors, alpha)
        if "lokr_w1" in tensors or "lokr_w1_a" in tensors:
            return _of_lokr(tensors, alpha)
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is missing") from error
    except (ArithmeticError, IndexError, RuntimeError) as error:
        raise ValueError(f"its tensors do not fit together ({error})") from error
    return Strength(None, alpha, None)


def energies_of(up_OR: Tensor, down_RN: Tensor) -> Tensor:
    """Squared singular values of up · down, the largest first, fp64."""
    if up_OR.shape[1] > min(up_OR.shape[0], down_RN.shape[1]):
        return torch.linalg.svdvals(_product(up_OR, down_RN).double()).square()
    outer_RR, inner_RR = (up_OR.T @ up_OR).double(), (down_RN @ down_RN.T).double()
    root_RR, failed = torch.linalg.cholesky_ex(outer_RR)
    if failed:  # directions that are not used, whose values are rounding alone
        values_R, vectors_RR = torch.linalg.eigh(outer_RR)
        root_RR = vectors_RR * values_R.clamp(min=0).sqrt()
    return torch.linalg.eigvalsh(root_RR.T @ inner_RR @ root_RR).clamp(min=0).flip(0)


def _of_lora(tensors: Mapping[str, Tensor], alpha: float | None) -> Strength:
    down_RN, up_OR = _matrix(tensors["lora_down.weight"]), _matrix(tensors["lora_up.weight"])
    rank = down_RN.shape[0]
    scale = 1.0 if alpha is None else alpha / rank
    if "lora_mid.weight" in tensors or NEEDS_BASE & tensors.keys():
        return Strength(rank, alpha, None)
    if up_OR.shape[1] != rank:
        raise ValueError(f"lora_down has the rank {rank} and lora_up the rank {up_OR.shape[1]}")
    energies_R = energies_of(up_OR, down_RN) * scale**2
    return Strength(rank, alpha, float(energies_R.sum().sqrt()), energies_R)


def _of_loha(tensors: Mapping[str, Tensor], alpha: float | None) -> Strength:
    """(W1a W1b) ∘ (W2a W2b) · alpha / rank (Hyeon-Woo et al. 2022)."""
    parts = [_matrix(tensors[f"hada_w{number}_{side}"]) for number in (1, 2) for side in ("a", "b")]
    rank = tensors["hada_w1_b"].shape[0]
    if "hada_t1" in tensors or NEEDS_BASE & tensors.keys():
        return Strength(rank, alpha, None)
    scale = 1.0 if alpha is None else alpha / rank
    return Strength(rank, alpha, float((_product(parts[0], parts[1]) * _product(parts[2], parts[3])).norm()) * scale)


def _of_lokr(tensors: Mapping[str, Tensor], alpha: float | None) -> Strength:
    """|W1 ⊗ W2| = |W1| |W2|; scaled by alpha / rank where one of them is itself a product."""
    ranks = [tensors[name].shape[0] for name in ("lokr_w1_b", "lokr_w2_b") if name in tensors]
    rank = ranks[-1] if ranks else None
    if "lokr_t2" in tensors or NEEDS_BASE & tensors.keys():
        return Strength(rank, alpha, None)
    scale = alpha / rank if alpha is not None and rank else 1.0
    norms = [_kronecker_part(tensors, number).norm() for number in (1, 2)]
    return Strength(rank, alpha, float(norms[0] * norms[1]) * scale)


def _kronecker_part(tensors: Mapping[str, Tensor], number: int) -> Tensor:
    whole = tensors.get(f"lokr_w{number}")
    if whole is not None:
        return whole.float()
    return _product(_matrix(tensors[f"lokr_w{number}_a"]), _matrix(tensors[f"lokr_w{number}_b"]))


def _product(left_OR: Tensor, right_RN: Tensor) -> Tensor:
    """left · right; a few numbers in a file may claim a weight of terabytes."""
    if left_OR.shape[0] * right_RN.shape[1] > LARGEST_WEIGHT:
        raise ValueError(
            f"its change would be {left_OR.shape[0]} x {right_RN.shape[1]}, larger than any weight of a model"
        )
    return left_OR @ right_RN


def _matrix(tensor: Tensor) -> Tensor:
    return tensor.float().flatten(1)
