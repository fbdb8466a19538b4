"""The forward process: how latents are corrupted, and what the model is asked to predict.

Letters: B samples, C latent channels, h w latent size, T timesteps. abar is the product of (1 - beta) up to t (Ho et al. 2020).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

Prediction = Literal["eps", "v"]


class NoiseProcess(Protocol):
    """What training, sampling and loss weightings need to know of a forward process.

    Every method works on tensors of one device without reading a value back, so that a step can be captured as a CUDA graph.
    """

    @property
    def prediction(self) -> Prediction:
        """What the model predicts: the noise, or v (Salimans & Ho 2022)."""
        ...

    @property
    def num_timesteps(self) -> int:
        """T; timesteps are 0 .. T-1."""
        ...

    @property
    def alphas_bar(self) -> Tensor:
        """(T,) fp32, falling; the last is 0 under a zero terminal SNR."""
        ...

    def corrupt(self, x0_BChw: Tensor, noise_BChw: Tensor, t_B: Tensor) -> Tensor:
        """Noisy latents in fp32 whatever the type of the inputs; the caller casts them once, for the model."""
        ...

    def target(self, x0_BChw: Tensor, noise_BChw: Tensor, t_B: Tensor) -> Tensor:
        """What the model should predict, in fp32 or the inputs' own type."""
        ...

    def snr(self, t_B: Tensor) -> Tensor:
        """Signal-to-noise ratio abar / (1 - abar), (B,) fp32; 0 where nothing is left of the picture."""
        ...

    def sigma(self, t_B: Tensor) -> Tensor:
        """Noise level sqrt((1 - abar) / abar), (B,) fp32; infinite where the SNR is 0."""
        ...

    def to(self, device: torch.device | str) -> NoiseProcess:
        """The same process with its tables on `device`."""
        ...


@dataclass(frozen=True)
class GaussianDiffusion:
    """The discrete variance-preserving process of DDPM, with tables that are derived in float64 and kept in fp32.

    At small t, 1 - abar taken from an fp32 abar would be wrong in the fifth digit; a table for each quantity keeps all seven.
    """

    prediction: Prediction
    alphas_bar: Tensor
    signal: Tensor
    """(T,) sqrt(abar)."""
    noise: Tensor
    """(T,) sqrt(1 - abar)."""
    signal_to_noise: Tensor
    """(T,) abar / (1 - abar)."""
    noise_level: Tensor
    """(T,) sqrt((1 - abar) / abar)."""

    @classmethod
    def from_betas(cls, betas: Tensor, prediction: Prediction) -> GaussianDiffusion:
        """The process with these variances (T,), each above 0 and at most 1."""
        abar = torch.cumprod(1 - betas.double(), dim=0)
        snr = abar / (1 - abar)
        tables = (abar, abar.sqrt(), (1 - abar).sqrt(), snr, snr.rsqrt())
        return cls(prediction, *(table.float() for table in tables))

    @property
    def num_timesteps(self) -> int:
        return len(self.alphas_bar)

    def corrupt(self, x0_BChw: Tensor, noise_BChw: Tensor, t_B: Tensor) -> Tensor:
        """sqrt(abar) x0 + sqrt(1 - abar) noise (Ho et al. 2020, eq. 4)."""
        return _per_sample(self.signal, t_B) * x0_BChw + _per_sample(self.noise, t_B) * noise_BChw

    def target(self, x0_BChw: Tensor, noise_BChw: Tensor, t_B: Tensor) -> Tensor:
        """The noise, or v = sqrt(abar) noise - sqrt(1 - abar) x0 (Salimans & Ho 2022, appendix D)."""
        if self.prediction == "eps":
            return noise_BChw
        return _per_sample(self.signal, t_B) * noise_BChw - _per_sample(self.noise, t_B) * x0_BChw

    def snr(self, t_B: Tensor) -> Tensor:
        return self.signal_to_noise[t_B]

    def sigma(self, t_B: Tensor) -> Tensor:
        return self.noise_level[t_B]

    def to(self, device: torch.device | str) -> GaussianDiffusion:
        return replace(
            self,
            alphas_bar=self.alphas_bar.to(device),
            signal=self.signal.to(device),
            noise=self.noise.to(device),
            signal_to_noise=self.signal_to_noise.to(device),
            noise_level=self.noise_level.to(device),
        )


def linear_betas(start: float, end: float, n: int) -> Tensor:
    """n variances evenly spaced from start to end (Ho et al. 2020), float64."""
    return torch.linspace(start, end, n, dtype=torch.float64)


def scaled_linear_betas(start: float, end: float, n: int) -> Tensor:
    """n variances whose square roots are evenly spaced, as in Stable Diffusion (Rombach et al. 2022), float64."""
    return torch.linspace(start**0.5, end**0.5, n, dtype=torch.float64) ** 2


def zero_terminal_snr(betas: Tensor) -> Tensor:
    """Variances (T,) rescaled so that the last timestep is pure noise and the first is unchanged (Lin et al. 2023, algorithm 1)."""
    root = torch.cumprod(1 - betas.double(), dim=0).sqrt()
    shifted = (root - root[-1]) * root[0] / (root[0] - root[-1])
    abar = shifted**2
    alphas = torch.cat([abar[:1], abar[1:] / abar[:-1]])
    return 1 - alphas


def _per_sample(table: Tensor, t_B: Tensor) -> Tensor:
    """The entries of a table (T,) for each sample as (B, 1, 1, 1)."""
    return table[t_B].reshape(-1, 1, 1, 1)
