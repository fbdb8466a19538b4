"""How much each timestep counts in the loss.

A weighting is a pure function of the timestep, so the product of all that a config asks for is computed once for every
timestep and looked up in training. Letters: B samples, T timesteps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from library.config.schema.training import LossConfig
from library.core.errors import UserError
from library.core.registry import LOSS_WEIGHTINGS
from library.diffusion.process import NoiseProcess

Weighting = Callable[[NoiseProcess, Tensor], Tensor]
"""(process, t_B) -> weights (B,). Registered in LOSS_WEIGHTINGS, or given by a dotted path as `loss_weighting`."""

LARGEST_SNR = 1000.0
"""The SNR counts as at most this in all weightings but min_snr, as in sd-scripts."""


@dataclass(frozen=True)
class TimestepTable:
    """One number for every timestep."""

    values_T: Tensor

    def __call__(self, t_B: Tensor) -> Tensor:
        """The numbers (B,) of these timesteps."""
        return self.values_T[t_B]


def build_weighting(loss: LossConfig, process: NoiseProcess) -> TimestepTable:
    """The weights that the config asks for, multiplied; fp32, on the device of the process's tables.

    Raises:
        UserError: a weighting does not fit what the model predicts, or is not finite at some timestep.
    """
    t_T = torch.arange(process.num_timesteps, device=process.alphas_bar.device)
    product_T = torch.ones_like(process.alphas_bar)
    for option, weighting in _asked_for(loss):
        weights_T = weighting(process, t_T)
        finite = weights_T.is_meta or bool(
            torch.isfinite(weights_T).all()
        )  # the meta device holds no values to be broken
        if weights_T.shape != t_T.shape or not finite:
            raise UserError(
                f"{option} gives no finite weight to some timesteps of this model, which predicts {process.prediction} "
                f"with a last SNR of {float(process.snr(t_T[-1:])):.3g}. Choose another weighting"
                + (", or leave out zero_terminal_snr." if process.snr(t_T[-1:]) == 0 else ".")
            )
        product_T = product_T * weights_T.float()
    return TimestepTable(product_T)


def _asked_for(loss: LossConfig) -> Iterator[tuple[str, Weighting]]:
    """Each weighting with the option that asks for it."""
    if loss.min_snr_gamma:
        yield "min_snr_gamma", partial(min_snr, gamma=loss.min_snr_gamma)
    if loss.scale_v_pred_loss_like_noise_pred:
        yield "scale_v_pred_loss_like_noise_pred", v_as_noise
    if loss.v_pred_like_loss:
        yield "v_pred_like_loss", partial(v_pred_like, amount=loss.v_pred_like_loss)
    if loss.debiased_estimation_loss:
        yield "debiased_estimation_loss", debiased
    if loss.loss_weighting:
        found = LOSS_WEIGHTINGS.get(loss.loss_weighting)
        if not callable(found):
            raise UserError(f"loss_weighting = '{loss.loss_weighting}' is not a function of (process, timesteps).")
        yield f"loss_weighting = '{loss.loss_weighting}'", found


def min_snr(process: NoiseProcess, t_B: Tensor, gamma: float = 5.0) -> Tensor:
    """min(SNR, gamma) / SNR, for v / (SNR + 1) (Hang et al. 2023); at SNR 0 the limits 1, for v 0."""
    snr_B = process.snr(t_B)
    if process.prediction == "v":
        return snr_B.clamp(max=gamma) / (snr_B + 1)
    return (gamma / snr_B).clamp(max=1)


def debiased(process: NoiseProcess, t_B: Tensor) -> Tensor:
    """1 / sqrt(SNR) (Yu et al. 2023), for v 1 / (SNR + 1); infinite for noise prediction at SNR 0."""
    snr_B = process.snr(t_B).clamp(max=LARGEST_SNR)
    return 1 / (snr_B + 1) if process.prediction == "v" else snr_B.rsqrt()


def v_as_noise(process: NoiseProcess, t_B: Tensor) -> Tensor:
    """SNR / (SNR + 1) = abar, which turns the squared error of v into that of the noise.

    From v's definition, noise = sqrt(abar) v + sqrt(1 - abar) noisy: an error of v is one of the noise times sqrt(abar).

    Raises:
        UserError: the model predicts the noise already.
    """
    if process.prediction != "v":
        raise UserError(
            "scale_v_pred_loss_like_noise_pred is for models that predict v, and this one predicts the noise; remove it."
        )
    return _noise_error_per_v_error(process, t_B)


def v_pred_like(process: NoiseProcess, t_B: Tensor, amount: float = 1.0) -> Tensor:
    """1 + amount (SNR + 1) / SNR: the noise loss plus `amount` times the loss that v would have; infinite at SNR 0.

    Raises:
        UserError: the model predicts v already.
    """
    if process.prediction == "v":
        raise UserError("v_pred_like_loss is for models that predict the noise, and this one predicts v; remove it.")
    return 1 + amount / _noise_error_per_v_error(process, t_B)


def _noise_error_per_v_error(process: NoiseProcess, t_B: Tensor) -> Tensor:
    snr_B = process.snr(t_B).clamp(max=LARGEST_SNR)
    return snr_B / (snr_B + 1)
