"""The noise a sample is corrupted with, drawn on the CPU as a pure function of its generator.

Letters: C latent channels, h w latent size. One sample at a time, so that a picture's noise depends neither on its batch
nor on the device. What a setting adds is drawn after what it adds to: switching it on leaves the rest as it was.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from library.config.schema.training import NoiseConfig


class Noise(NamedTuple):
    """Two noises of one sample, (C, h, w) fp32; the same tensor without input perturbation."""

    target: Tensor
    """What the model is asked to find."""
    corrupting: Tensor
    """What the latents are corrupted with."""


def draw_noise(
    shape_Chw: tuple[int, int, int], generator: Generator, config: NoiseConfig, latents_Chw: Tensor | None = None
) -> Noise:
    """The noise of one sample.

    Args:
        shape_Chw: shape of its latents.
        generator: a CPU generator made for this sample.
        config: the noise options, which loading the configuration has found to agree with one another.
        latents_Chw: the sample's latents; read only where adaptive_noise_scale is set.
    """
    noise_Chw = torch.randn(shape_Chw, generator=generator)
    if config.noise_offset:
        strength = _strength(config.noise_offset, config.noise_offset_random_strength, generator)
        offset = adaptive_offset(strength, config.adaptive_noise_scale, latents_Chw)
        noise_Chw = noise_Chw + offset * torch.randn(shape_Chw[0], 1, 1, generator=generator)
    if config.multires_noise_iterations:
        noise_Chw = multires_noise(
            noise_Chw, config.multires_noise_iterations, config.multires_noise_discount, generator
        )
    if not config.ip_noise_gamma:
        return Noise(noise_Chw, noise_Chw)
    gamma = _strength(config.ip_noise_gamma, config.ip_noise_gamma_random_strength, generator)
    return Noise(noise_Chw, noise_Chw + gamma * torch.randn(shape_Chw, generator=generator))


def adaptive_offset(strength: float, scale: float | None, latents_Chw: Tensor | None) -> Tensor | float:
    """Strength of the noise offset, grown by `scale` times the size of each channel's mean, at least 0: a number or (C, 1, 1)."""
    if scale is None:
        return strength
    assert latents_Chw is not None, "adaptive_noise_scale needs the sample's latents"
    mean_C11 = latents_Chw.float().cpu().mean(dim=(1, 2), keepdim=True)
    return (strength + scale * mean_C11.abs()).clamp(min=0)


def multires_noise(noise_Chw: Tensor, iterations: int, discount: float, generator: Generator) -> Tensor:
    """Noise plus coarser and coarser noise scaled up to its size, brought back to unit variance (Whitaker 2023)."""
    height, width = noise_Chw.shape[1:]
    for level in range(iterations):
        shrink = (2 + 2 * torch.rand((), generator=generator, dtype=torch.float64).item()) ** level
        size = max(1, int(height / shrink)), max(1, int(width / shrink))
        coarse_1Chw = torch.randn(1, noise_Chw.shape[0], *size, generator=generator)
        noise_Chw = noise_Chw + discount**level * interpolate(coarse_1Chw, size=(height, width), mode="bilinear")[0]
        if 1 in size:
            break
    return noise_Chw / noise_Chw.std()


def _strength(value: float, random: bool, generator: Generator) -> float:
    return value * torch.rand((), generator=generator).item() if random else value
