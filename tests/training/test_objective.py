"""The whole objective against formulas written out in numpy float64, to 1e-6 relative."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from library.config.schema import LossConfig
from library.diffusion.distance import build_distance
from library.diffusion.process import GaussianDiffusion, scaled_linear_betas, zero_terminal_snr
from library.diffusion.weighting import build_weighting
from library.training.batch import Batch
from library.training.objective import Objective

B, C, H, W = 5, 4, 8, 6
T = torch.tensor([0, 17, 250, 700, 999])


def batch(seed: int = 0, masked: bool = False, keeps_prior: list[bool] | None = None) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(B, C, H, W, generator=draw)
    return Batch(
        latents=torch.randn(B, C, H, W, generator=draw),
        noise=noise,
        corrupting_noise=noise + 0.1 * torch.randn(B, C, H, W, generator=draw),
        timesteps=T,
        geometry=torch.zeros(B, 6, dtype=torch.int64),
        weight=torch.tensor([1.0, 0.5, 1.0, 2.0, 1.0]),
        mask=torch.rand(B, 1, H, W, generator=draw) if masked else None,
        conditioning={},
        prompts=[""] * B,
        images=[""] * B,
        keeps_prior=torch.tensor(keeps_prior) if keeps_prior else None,
        multiplier=1.0,
        step=0,
        micro=0,
        epoch=0,
        global_size=B,
    )


class LinearModel:
    """Predicts half of what it is shown plus a constant, so that the corruption matters."""

    def __init__(self, process: GaussianDiffusion) -> None:
        self.process = process

    def predict(
        self, noisy: torch.Tensor, t: torch.Tensor, conditioning: object, geometry: torch.Tensor
    ) -> torch.Tensor:
        return 0.5 * noisy + 0.25


def tables(ztsnr: bool) -> np.ndarray:
    """alpha-bar in float64, from the definition of SD's schedule."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    roots = np.sqrt(np.cumprod(1 - betas))
    if ztsnr:
        roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    return roots**2


def expected(found: Batch, loss: LossConfig, prediction: str, ztsnr: bool) -> np.ndarray:
    abar = tables(ztsnr)[T.numpy()].reshape(-1, 1, 1, 1)
    x0, noise, corrupting = (x.double().numpy() for x in (found.latents, found.noise, found.corrupting_noise))
    predicted = 0.5 * (np.sqrt(abar) * x0 + np.sqrt(1 - abar) * corrupting) + 0.25
    target = noise if prediction == "eps" else np.sqrt(abar) * noise - np.sqrt(1 - abar) * x0
    d = predicted - target
    abar_B = abar.reshape(-1)
    snr = abar_B / (1 - abar_B)
    if loss.loss_type == "l2":
        error = d**2
    elif loss.loss_type == "l1":
        error = np.abs(d)
    else:
        sigma = np.sqrt((1 - abar_B) / np.maximum(abar_B, 1e-300))
        c = {
            "constant": np.full(B, loss.huber_c),
            "exponential": np.exp(math.log(loss.huber_c) * T.numpy() / 1000),
            "snr": (1 - loss.huber_c) / (1 + sigma) ** 2 + loss.huber_c,
        }[loss.huber_schedule].reshape(-1, 1, 1, 1)
        if loss.huber_schedule != "snr":
            c = c * loss.huber_scale
        error = 2 * (c if loss.loss_type == "huber" else 1) * (np.sqrt(d**2 + c**2) - c)
    if found.mask is not None:
        error = error * found.mask.double().numpy()
    losses = error.mean(axis=(1, 2, 3)) * found.weight.double().numpy()
    if loss.min_snr_gamma:
        losses = losses * np.minimum(snr, loss.min_snr_gamma) / (snr + 1 if prediction == "v" else snr)
    return losses


CASES = [
    LossConfig(),
    LossConfig(loss_type="l1"),
    *[
        LossConfig(loss_type=t, huber_schedule=s)
        for t in ("huber", "smooth_l1")
        for s in ("constant", "exponential", "snr")
    ],
    LossConfig(min_snr_gamma=5.0),
]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("loss", CASES, ids=lambda case: f"{case.loss_type}-{case.huber_schedule}-{case.min_snr_gamma}")
def test_objective_equals_the_formulas(loss: LossConfig, prediction: str, masked: bool) -> None:
    process = GaussianDiffusion.from_betas(scaled_linear_betas(0.00085, 0.012, 1000), prediction)
    objective = Objective(LinearModel(process), build_distance(loss, process), build_weighting(loss, process))
    found = batch(masked=masked)
    np.testing.assert_allclose(objective(found, {}).numpy(), expected(found, loss, prediction, False), rtol=1e-6)


def test_zero_terminal_snr_leaves_no_signal_at_the_last_timestep() -> None:
    process = GaussianDiffusion.from_betas(zero_terminal_snr(scaled_linear_betas(0.00085, 0.012, 1000)), "v")
    objective = Objective(
        LinearModel(process), build_distance(LossConfig(), process), build_weighting(LossConfig(), process)
    )
    found = batch()
    np.testing.assert_allclose(objective(found, {}).numpy(), expected(found, LossConfig(), "v", True), rtol=1e-6)


def test_prior_is_the_target_of_the_samples_that_keep_it() -> None:
    process = GaussianDiffusion.from_betas(scaled_linear_betas(0.00085, 0.012, 1000), "eps")
    objective = Objective(
        LinearModel(process), build_distance(LossConfig(), process), build_weighting(LossConfig(), process)
    )
    found = batch(keeps_prior=[True, False, True, False, False])
    plain = objective(found, {})
    kept = objective(found, {}, prior=objective.predict(found, {}))
    assert kept[[0, 2]].abs().max() == 0
    assert torch.equal(kept[[1, 3, 4]], plain[[1, 3, 4]])


def test_namespace_model_is_enough() -> None:
    """The objective asks nothing of a model but its process and prediction."""
    process = GaussianDiffusion.from_betas(scaled_linear_betas(0.00085, 0.012, 1000), "eps")
    model = SimpleNamespace(process=process, predict=lambda noisy, *rest: noisy.bfloat16())
    objective = Objective(model, build_distance(LossConfig(), process), build_weighting(LossConfig(), process))
    assert objective(batch(), {}).dtype == torch.float32
