"""The difference of two weights as a change of low rank."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from library.lora_files.low_rank.factors import Decomposition, Factors

EXACT_BELOW = 512
"""Matrices with a side no longer than this are decomposed whole, which is as quick."""
OVERSAMPLING, ITERATIONS = 16, 6
SEED = 0


def decomposed_difference(difference: Tensor, rank: int) -> Decomposition:
    """The first `rank` singular values of a dense change, (O, I) or (O, I, h, w).

    Large matrices by a random projection with power iterations (Halko, Martinsson and Tropp 2011, algorithm 5.1), the same
    in every run.
    """
    matrix_ON = difference.float().flatten(1)
    shape, energy = tuple(difference.shape), float(matrix_ON.double().square().sum())
    shorter = min(matrix_ON.shape)
    if shorter <= EXACT_BELOW or rank + OVERSAMPLING >= shorter:
        left, values, right = torch.linalg.svd(matrix_ON, full_matrices=False)
    else:
        with torch.random.fork_rng(devices=[matrix_ON.device] if matrix_ON.is_cuda else []):
            torch.manual_seed(SEED)
            left, values, right_NR = torch.svd_lowrank(matrix_ON, q=rank + OVERSAMPLING, niter=ITERATIONS)
        right = right_NR.T
    return Decomposition(left[:, :rank], values[:rank], right[:rank], shape, energy)


def clamped(factors: Factors, quantile: float) -> Factors:
    """Both factors within plus and minus the quantile of their values, as sd-scripts' `clamp_quantile` does; 1 leaves them."""
    if quantile >= 1:
        return factors
    values = torch.cat([factors.up_OR.flatten(), factors.down_RN.flatten()])
    limit = float(np.quantile(values.numpy(), quantile))  # torch's own takes no more than 16 million values
    return Factors(factors.up_OR.clamp(-limit, limit), factors.down_RN.clamp(-limit, limit), factors.weight_shape)
