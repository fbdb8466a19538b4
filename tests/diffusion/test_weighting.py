from __future__ import annotations

import numpy as np
import pytest
import torch

from library.config.schema.training import LossConfig
from library.core.errors import UserError
from library.core.registry import LOSS_WEIGHTINGS
from library.diffusion.process import GaussianDiffusion, NoiseProcess, scaled_linear_betas, zero_terminal_snr
from library.diffusion.weighting import build_weighting

START, END, T = 0.00085, 0.012, 1000
ALL_T = torch.arange(T)


def process(prediction: str, terminal_snr_is_zero: bool = False) -> GaussianDiffusion:
    betas = scaled_linear_betas(START, END, T)
    return GaussianDiffusion.from_betas(zero_terminal_snr(betas) if terminal_snr_is_zero else betas, prediction)  # type: ignore[arg-type]


def snr_float64() -> np.ndarray:
    abar = np.cumprod(1 - np.linspace(np.sqrt(START), np.sqrt(END), T) ** 2)
    return abar / (1 - abar)


SNR = snr_float64()
CAPPED = np.minimum(SNR, 1000)


@pytest.mark.parametrize(
    ("loss", "prediction", "expected"),
    [
        (LossConfig(), "eps", np.ones(T)),
        (LossConfig(min_snr_gamma=5.0), "eps", np.minimum(SNR, 5) / SNR),
        (LossConfig(min_snr_gamma=5.0), "v", np.minimum(SNR, 5) / (SNR + 1)),
        (LossConfig(min_snr_gamma=0.0), "eps", np.ones(T)),
        (LossConfig(debiased_estimation_loss=True), "eps", 1 / np.sqrt(CAPPED)),
        (LossConfig(debiased_estimation_loss=True), "v", 1 / (CAPPED + 1)),
        (LossConfig(scale_v_pred_loss_like_noise_pred=True), "v", CAPPED / (CAPPED + 1)),
        (LossConfig(v_pred_like_loss=0.5), "eps", 1 + 0.5 * (CAPPED + 1) / CAPPED),
        (LossConfig(loss_weighting="min_snr"), "eps", np.minimum(SNR, 5) / SNR),
        (
            LossConfig(min_snr_gamma=1.0, scale_v_pred_loss_like_noise_pred=True, debiased_estimation_loss=True),
            "v",
            np.minimum(SNR, 1) / (SNR + 1) * CAPPED / (CAPPED + 1) / (CAPPED + 1),
        ),
    ],
)
def test_weights_are_the_papers(loss: LossConfig, prediction: str, expected: np.ndarray) -> None:
    weights = build_weighting(loss, process(prediction))(ALL_T)
    assert weights.dtype == torch.float32
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-6)


def test_weights_are_looked_up_for_each_sample() -> None:
    t_B = torch.tensor([999, 0, 999, 3])
    weigh = build_weighting(LossConfig(min_snr_gamma=5.0), process("eps"))
    np.testing.assert_allclose(weigh(t_B).numpy(), (np.minimum(SNR, 5) / SNR)[t_B.numpy()], rtol=1e-6)


@pytest.mark.parametrize(("prediction", "last"), [("eps", 1.0), ("v", 0.0)])
def test_min_snr_takes_its_limit_at_a_zero_snr(prediction: str, last: float) -> None:
    weights = build_weighting(LossConfig(min_snr_gamma=5.0), process(prediction, terminal_snr_is_zero=True))(ALL_T)
    assert torch.isfinite(weights).all()
    assert weights[-1] == last


def test_debiased_v_is_finite_at_a_zero_snr() -> None:
    weights = build_weighting(LossConfig(debiased_estimation_loss=True), process("v", terminal_snr_is_zero=True))(ALL_T)
    assert torch.isfinite(weights).all()
    assert weights[-1] == 1


@pytest.mark.parametrize("loss", [LossConfig(debiased_estimation_loss=True), LossConfig(v_pred_like_loss=1.0)])
def test_infinite_weights_are_refused_and_say_why(loss: LossConfig) -> None:
    with pytest.raises(UserError, match="leave out zero_terminal_snr"):
        build_weighting(loss, process("eps", terminal_snr_is_zero=True))


@pytest.mark.parametrize(
    ("loss", "prediction"),
    [
        (LossConfig(scale_v_pred_loss_like_noise_pred=True), "eps"),
        (LossConfig(loss_weighting="v_as_noise"), "eps"),
        (LossConfig(v_pred_like_loss=1.0), "v"),
    ],
)
def test_a_weighting_for_the_other_prediction_is_refused(loss: LossConfig, prediction: str) -> None:
    with pytest.raises(UserError, match="remove it"):
        build_weighting(loss, process(prediction))


def test_ones_own_weighting_is_found_by_name() -> None:
    @LOSS_WEIGHTINGS.register("abar_for_a_test")
    def abar(noise_process: NoiseProcess, t_B: torch.Tensor) -> torch.Tensor:
        return noise_process.alphas_bar[t_B]

    weigh = build_weighting(LossConfig(loss_weighting="abar_for_a_test"), process("eps"))
    np.testing.assert_allclose(weigh(ALL_T).numpy(), SNR / (SNR + 1), rtol=1e-6)


@pytest.mark.parametrize(("name", "said"), [("min_snrr", "min_snr"), ("library.diffusion", "not a function")])
def test_what_is_no_weighting_is_named(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_weighting(LossConfig(loss_weighting=name), process("eps"))
