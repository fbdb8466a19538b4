"""The formulas, replayed in float64 numpy from the same stream of Gaussian numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from library.config.schema.training import NoiseConfig
from library.diffusion.noise import draw_noise

SHAPE = (4, 24, 16)


def stream() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def gaussian(generator: torch.Generator, *shape: int) -> np.ndarray:
    return torch.randn(shape, generator=generator).double().numpy()


def assert_close(noise: torch.Tensor, expected: np.ndarray) -> None:
    assert noise.dtype == torch.float32
    np.testing.assert_allclose(noise.numpy(), expected, rtol=1e-6, atol=1e-6)


def test_plain_noise_is_gaussian_and_serves_as_both() -> None:
    noise = draw_noise(SHAPE, stream(), NoiseConfig())
    assert_close(noise.target, gaussian(stream(), *SHAPE))
    assert noise.corrupting is noise.target


def test_noise_offset_shifts_each_channel() -> None:
    replay = stream()
    expected = gaussian(replay, *SHAPE) + 0.05 * gaussian(replay, 4, 1, 1)
    assert_close(draw_noise(SHAPE, stream(), NoiseConfig(noise_offset=0.05)).target, expected)


def test_noise_offset_of_random_strength() -> None:
    replay = stream()
    expected = gaussian(replay, *SHAPE)
    expected = expected + 0.05 * torch.rand((), generator=replay).item() * gaussian(replay, 4, 1, 1)
    config = NoiseConfig(noise_offset=0.05, noise_offset_random_strength=True)
    assert_close(draw_noise(SHAPE, stream(), config).target, expected)


@pytest.mark.parametrize("scale", [0.1, -1.0])
def test_adaptive_noise_scale_follows_the_channel_means_and_never_turns_negative(scale: float) -> None:
    latents = (
        torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))
        + torch.tensor([-2.0, -0.1, 0.01, 1.0])[:, None, None]
    )
    means = np.abs(latents.double().numpy().mean(axis=(1, 2), keepdims=True))
    replay = stream()
    expected = gaussian(replay, *SHAPE) + np.maximum(0.05 + scale * means, 0) * gaussian(replay, 4, 1, 1)
    config = NoiseConfig(noise_offset=0.05, adaptive_noise_scale=scale)
    assert_close(draw_noise(SHAPE, stream(), config, latents).target, expected)


def bilinear(coarse: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resampling with pixel centres at half integers and clamped borders, axis by axis."""
    for axis, size in ((1, height), (2, width)):
        length = coarse.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        low = np.floor(at).astype(int)
        high, share = np.minimum(low + 1, length - 1), at - low
        share = share.reshape([-1 if a == axis else 1 for a in range(3)])
        coarse = np.take(coarse, low, axis) * (1 - share) + np.take(coarse, high, axis) * share
    return coarse


@pytest.mark.parametrize("iterations", [1, 2, 10])
def test_multires_noise_adds_coarser_noise_and_keeps_unit_variance(iterations: int) -> None:
    replay = stream()
    expected = gaussian(replay, *SHAPE)
    for level in range(iterations):
        shrink = (2 + 2 * torch.rand((), generator=replay, dtype=torch.float64).item()) ** level
        height, width = max(1, int(24 / shrink)), max(1, int(16 / shrink))
        expected = expected + 0.3**level * bilinear(gaussian(replay, 4, height, width), 24, 16)
        if height == 1 or width == 1:
            break
    expected = expected / expected.std(ddof=1)
    config = NoiseConfig(multires_noise_iterations=iterations)
    assert_close(draw_noise(SHAPE, stream(), config).target, expected)


@pytest.mark.parametrize("random_strength", [False, True])
def test_input_perturbation_leaves_the_target_alone(random_strength: bool) -> None:
    replay = stream()
    target = gaussian(replay, *SHAPE)
    gamma = 0.1 * (torch.rand((), generator=replay).item() if random_strength else 1)
    config = NoiseConfig(ip_noise_gamma=0.1, ip_noise_gamma_random_strength=random_strength)
    noise = draw_noise(SHAPE, stream(), config)
    assert_close(noise.target, target)
    assert_close(noise.corrupting, target + gamma * gaussian(replay, *SHAPE))


def test_the_same_generator_gives_the_same_noise() -> None:
    config = NoiseConfig(multires_noise_iterations=6, ip_noise_gamma=0.1, ip_noise_gamma_random_strength=True)
    first, again = (draw_noise(SHAPE, stream(), config) for _ in range(2))
    assert torch.equal(first.target, again.target)
    assert torch.equal(first.corrupting, again.corrupting)
