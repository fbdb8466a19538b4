from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from library.diffusion.process import GaussianDiffusion, linear_betas, scaled_linear_betas, zero_terminal_snr

START, END, T = 0.00085, 0.012, 1000


def abar_float64(terminal_snr_is_zero: bool) -> np.ndarray:
    """Stable Diffusion's abar, from the definition; rescaled as Lin et al. 2023 say: shift sqrt(abar) to end at 0, keep its start."""
    betas = np.linspace(np.sqrt(START), np.sqrt(END), T) ** 2
    abar = np.array([np.prod(1 - betas[: t + 1]) for t in range(T)])
    if terminal_snr_is_zero:
        root = np.sqrt(abar)
        abar = np.interp(root, [root[-1], root[0]], [0, root[0]]) ** 2
    return abar


def process(prediction: str, terminal_snr_is_zero: bool = False) -> GaussianDiffusion:
    betas = scaled_linear_betas(START, END, T)
    return GaussianDiffusion.from_betas(zero_terminal_snr(betas) if terminal_snr_is_zero else betas, prediction)  # type: ignore[arg-type]


def latents_noise_timesteps() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    t_B = torch.tensor([0, 1, 250, 500, 998, 999])
    return torch.randn(6, 4, 8, 8, generator=generator), torch.randn(6, 4, 8, 8, generator=generator), t_B


def column(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("terminal_snr_is_zero", [False, True])
def test_corruption_and_targets_are_the_papers(terminal_snr_is_zero: bool) -> None:
    x0, noise, t_B = latents_noise_timesteps()
    abar = column(abar_float64(terminal_snr_is_zero)[t_B.numpy()])
    signal, spread = np.sqrt(abar), np.sqrt(1 - abar)
    expected_noisy = signal * x0.double().numpy() + spread * noise.double().numpy()
    expected_v = signal * noise.double().numpy() - spread * x0.double().numpy()

    eps, v = process("eps", terminal_snr_is_zero), process("v", terminal_snr_is_zero)
    np.testing.assert_allclose(eps.corrupt(x0, noise, t_B).numpy(), expected_noisy, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(v.target(x0, noise, t_B).numpy(), expected_v, rtol=1e-6, atol=1e-6)
    assert torch.equal(eps.target(x0, noise, t_B), noise)


@pytest.mark.parametrize("terminal_snr_is_zero", [False, True])
def test_agrees_with_diffusers(terminal_snr_is_zero: bool) -> None:
    scheduler = DDPMScheduler(
        beta_start=START, beta_end=END, beta_schedule="scaled_linear", rescale_betas_zero_snr=terminal_snr_is_zero
    )
    x0, noise, t_B = latents_noise_timesteps()
    ours = process("v", terminal_snr_is_zero)
    torch.testing.assert_close(ours.corrupt(x0, noise, t_B), scheduler.add_noise(x0, noise, t_B), rtol=0, atol=3e-6)
    torch.testing.assert_close(ours.target(x0, noise, t_B), scheduler.get_velocity(x0, noise, t_B), rtol=0, atol=3e-6)


def test_snr_and_sigma_keep_seven_digits_at_every_timestep() -> None:
    abar, t_T = abar_float64(False), torch.arange(T)
    np.testing.assert_allclose(process("eps").snr(t_T).numpy(), abar / (1 - abar), rtol=1e-6)
    np.testing.assert_allclose(process("eps").sigma(t_T).numpy(), np.sqrt((1 - abar) / abar), rtol=1e-6)


def test_a_zero_terminal_snr_is_exactly_zero() -> None:
    last = torch.tensor([T - 1])
    rescaled = process("v", terminal_snr_is_zero=True)
    x0, noise, _ = latents_noise_timesteps()
    assert rescaled.alphas_bar[-1] == 0
    assert rescaled.snr(last) == 0
    assert torch.isposinf(rescaled.sigma(last)).all()
    assert torch.equal(rescaled.corrupt(x0[:1], noise[:1], last), noise[:1])
    assert rescaled.alphas_bar[0] == process("v").alphas_bar[0]


def test_linear_betas_are_those_of_ddpm() -> None:
    scheduler = DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    ours = GaussianDiffusion.from_betas(linear_betas(1e-4, 0.02, T), "eps")
    torch.testing.assert_close(ours.alphas_bar, scheduler.alphas_cumprod, rtol=3e-5, atol=0)


def test_half_precision_latents_are_corrupted_in_fp32() -> None:
    x0, noise, t_B = latents_noise_timesteps()
    noisy = process("v").corrupt(x0.bfloat16(), noise, t_B)
    assert noisy.dtype == torch.float32
    torch.testing.assert_close(noisy, process("v").corrupt(x0.bfloat16().float(), noise, t_B), rtol=0, atol=0)


def test_every_table_moves() -> None:
    moved = process("v").to("meta")
    tables = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert len(tables) == 5
    assert all(table.device.type == "meta" for table in tables)
