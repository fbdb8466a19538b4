"""The noise process that a model was trained with, from the settings of its scheduler."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from library.core.errors import UserError
from library.diffusion.process import (
    GaussianDiffusion,
    NoiseProcess,
    Prediction,
    linear_betas,
    scaled_linear_betas,
    zero_terminal_snr,
)

log = logging.getLogger("dojo")

STABLE_DIFFUSION: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}

MOST_TIMESTEPS = 10_000


def noise_process(
    scheduler: Mapping[str, Any], prediction: Prediction, zero_snr: bool, device: torch.device
) -> NoiseProcess:
    """The process of a model; settings that its scheduler leaves out are those of Stable Diffusion.

    Args:
        zero_snr: rescale the betas first, so that the last timestep is pure noise (Lin et al. 2023).

    Raises:
        UserError: a schedule that is not known.
    """
    betas = training_betas(scheduler)
    if zero_snr and prediction == "eps":
        log.warning(
            "a zero terminal SNR with a model that predicts noise: at the last timestep there is nothing to learn."
        )
    return GaussianDiffusion.from_betas(zero_terminal_snr(betas) if zero_snr else betas, prediction).to(device)


def training_betas(scheduler: Mapping[str, Any]) -> Tensor:
    """The variances (T,) before any rescaling, float64.

    Raises:
        UserError: a schedule that is not known, or that is none.
    """
    betas = _stated_betas(scheduler)
    if betas.ndim != 1 or not len(betas) or not ((betas > 0) & (betas <= 1)).all():
        raise UserError("scheduler_config.json: its betas are not variances between 0 and 1. Fetch the model again.")
    return betas


def _stated_betas(scheduler: Mapping[str, Any]) -> Tensor:
    if scheduler.get("trained_betas") is not None:
        return torch.tensor(scheduler["trained_betas"], dtype=torch.float64)
    settings = STABLE_DIFFUSION | {key: scheduler[key] for key in STABLE_DIFFUSION if key in scheduler}
    named = {"linear": linear_betas, "scaled_linear": scaled_linear_betas}
    if settings["beta_schedule"] not in named:
        raise UserError(
            f"scheduler_config.json: beta_schedule is '{settings['beta_schedule']}'; known are {', '.join(sorted(named))}."
        )
    steps = settings["num_train_timesteps"]
    if not isinstance(steps, int) or not 0 < steps <= MOST_TIMESTEPS:
        raise UserError(f"scheduler_config.json: num_train_timesteps is {steps}, expected 1 to {MOST_TIMESTEPS}.")
    return named[settings["beta_schedule"]](settings["beta_start"], settings["beta_end"], steps)
