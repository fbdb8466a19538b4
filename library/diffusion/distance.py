"""How far a prediction is from its target, element by element.

The Huber losses and their schedules are those of sd-scripts (Khrapov et al. 2024 for the schedules). Letters: B samples,
C latent channels, h w latent size, T timesteps; c is the width at which a loss turns from quadratic to linear.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import torch
from torch import Tensor

from library.config.schema.training import LossConfig
from library.core.errors import UserError
from library.diffusion.process import NoiseProcess

Distance = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(prediction_BChw, target_BChw, t_B) -> error_BChw in fp32."""

log = logging.getLogger("dojo")


def build_distance(loss: LossConfig, process: NoiseProcess) -> Distance:
    """The distance that the config asks for.

    Raises:
        UserError: a width of 0.
    """
    if loss.loss_type == "l2":
        return squared
    if loss.loss_type == "l1":
        return absolute
    width_T = huber_widths(loss, process)
    outer_T = width_T if loss.loss_type == "huber" else torch.ones_like(width_T)

    def scheduled(prediction_BChw: Tensor, target_BChw: Tensor, t_B: Tensor) -> Tensor:
        c_B111, outer_B111 = width_T[t_B].reshape(-1, 1, 1, 1), outer_T[t_B].reshape(-1, 1, 1, 1)
        return 2 * outer_B111 * pseudo_huber(prediction_BChw.float() - target_BChw.float(), c_B111)

    return scheduled


def squared(prediction_BChw: Tensor, target_BChw: Tensor, t_B: Tensor) -> Tensor:
    """l2: d^2."""
    return (prediction_BChw.float() - target_BChw.float()).square()


def absolute(prediction_BChw: Tensor, target_BChw: Tensor, t_B: Tensor) -> Tensor:
    """l1: |d|."""
    return (prediction_BChw.float() - target_BChw.float()).abs()


def pseudo_huber(d: Tensor, c: Tensor) -> Tensor:
    """sqrt(d^2 + c^2) - c, in a form that does not cancel where d is small against c."""
    squared_d = d.square()
    return squared_d / ((squared_d + c.square()).sqrt() + c)


def huber_widths(loss: LossConfig, process: NoiseProcess) -> Tensor:
    """c for every timestep, (T,) fp32, after huber_schedule.

    Raises:
        UserError: a width of 0.
    """
    if loss.huber_c <= 0 or loss.huber_scale <= 0:
        raise UserError(
            f"loss_type = '{loss.loss_type}' needs huber_c and huber_scale above 0, found {loss.huber_c} and {loss.huber_scale}; "
            "huber_c = 0.1 and huber_scale = 1 are usual."
        )
    t_T = torch.arange(process.num_timesteps, device=process.alphas_bar.device)
    if loss.huber_schedule == "snr":
        if loss.huber_scale != 1:
            log.warning("huber_scale has no effect with huber_schedule = 'snr'.")
        return (1 - loss.huber_c) / (1 + process.sigma(t_T)).square() + loss.huber_c
    if loss.huber_schedule == "exponential":
        return torch.exp(t_T * (math.log(loss.huber_c) / process.num_timesteps)) * loss.huber_scale
    return torch.full_like(process.alphas_bar, loss.huber_c * loss.huber_scale)
