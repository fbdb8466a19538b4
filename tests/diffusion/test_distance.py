from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch

from library.config.schema.training import LossConfig
from library.core.errors import UserError
from library.diffusion.distance import build_distance
from library.diffusion.process import GaussianDiffusion, scaled_linear_betas, zero_terminal_snr

START, END, T = 0.00085, 0.012, 1000
PROCESS = GaussianDiffusion.from_betas(scaled_linear_betas(START, END, T), "eps")
T_B = torch.tensor([0, 120, 500, 999])


def prediction_and_target() -> tuple[torch.Tensor, torch.Tensor]:
    """Differences from 1e-4, where the plain formula would cancel in fp32, to 10."""
    generator = torch.Generator().manual_seed(3)
    target = torch.randn(4, 4, 6, 6, generator=generator)
    size = torch.logspace(-4, 1, target.numel()).reshape(target.shape)
    return target + size * torch.randn(target.shape, generator=generator).sign(), target


def difference() -> np.ndarray:
    prediction, target = prediction_and_target()
    return (prediction - target).double().numpy()


def widths(schedule: str, c: float, scale: float) -> np.ndarray:
    t = T_B.numpy()
    abar = np.cumprod(1 - np.linspace(np.sqrt(START), np.sqrt(END), T) ** 2)[t]
    sigma = np.sqrt((1 - abar) / abar)
    by_schedule = {
        "constant": np.full(4, c * scale),
        "exponential": np.exp(math.log(c) * t / T) * scale,
        "snr": (1 - c) / (1 + sigma) ** 2 + c,
    }
    return by_schedule[schedule].reshape(-1, 1, 1, 1)


def test_l2_and_l1() -> None:
    for name, expected in (("l2", difference() ** 2), ("l1", np.abs(difference()))):
        error = build_distance(LossConfig(loss_type=name), PROCESS)(*prediction_and_target(), T_B)  # type: ignore[arg-type]
        np.testing.assert_allclose(error.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "exponential", "snr"])
@pytest.mark.parametrize("kind", ["huber", "smooth_l1"])
def test_huber_losses_with_every_schedule(kind: str, schedule: str) -> None:
    scale = 1.0 if schedule == "snr" else 0.7
    c, d = widths(schedule, 0.1, scale), difference()
    expected = 2 * (c if kind == "huber" else 1) * (np.sqrt(d**2 + c**2) - c)
    loss = LossConfig(loss_type=kind, huber_schedule=schedule, huber_c=0.1, huber_scale=scale)  # type: ignore[arg-type]
    error = build_distance(loss, PROCESS)(*prediction_and_target(), T_B)
    assert error.dtype == torch.float32
    np.testing.assert_allclose(error.numpy(), expected, rtol=1e-6)


def test_gradients_are_finite_where_prediction_and_target_agree() -> None:
    prediction = torch.zeros(4, 1, 2, 2, requires_grad=True)
    build_distance(LossConfig(loss_type="huber"), PROCESS)(prediction, torch.zeros(4, 1, 2, 2), T_B).sum().backward()
    assert prediction.grad is not None
    assert torch.equal(prediction.grad, torch.zeros_like(prediction))


def test_the_snr_schedule_ends_at_huber_c_where_the_snr_is_zero() -> None:
    rescaled = GaussianDiffusion.from_betas(zero_terminal_snr(scaled_linear_betas(START, END, T)), "v")
    loss = LossConfig(loss_type="smooth_l1", huber_c=0.2)
    error = build_distance(loss, rescaled)(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), torch.tensor([T - 1]))
    assert error.item() == pytest.approx(2 * (math.sqrt(1 + 0.04) - 0.2), rel=1e-6)


def test_half_precision_predictions_are_compared_in_fp32() -> None:
    prediction, target = prediction_and_target()
    for kind in ("l2", "l1", "huber", "smooth_l1"):
        distance = build_distance(LossConfig(loss_type=kind), PROCESS)  # type: ignore[arg-type]
        error = distance(prediction.bfloat16(), target, T_B)
        assert torch.equal(error, distance(prediction.bfloat16().float(), target, T_B))


@pytest.mark.parametrize(
    "loss", [LossConfig(loss_type="huber", huber_c=0.0), LossConfig(loss_type="smooth_l1", huber_scale=0.0)]
)
def test_a_width_of_zero_is_refused(loss: LossConfig) -> None:
    with pytest.raises(UserError, match="huber_c"):
        build_distance(loss, PROCESS)


def test_a_scale_without_effect_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="dojo"):
        build_distance(LossConfig(loss_type="huber", huber_scale=2.0), PROCESS)
    assert "huber_scale" in caplog.text
