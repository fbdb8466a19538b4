"""Pictures to latents and back, through the VAE.

Letters: B samples, C latent channels, h w latent size, H W picture size.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from library.data.types import BrokenLatents, LatentDistribution
from library.models.checkpoint import Component
from library.models.noted_fingerprint import noted_fingerprint
from library.models.parts import LazyModule, load_vae

log = logging.getLogger("dojo")


@dataclass(frozen=True)
class LatentScale:
    """How the VAE's own numbers become those that the UNet sees: (z - shift) * factor."""

    factor: float
    shift: float


class ImageCoder:
    """The VAE, loaded when it is needed.

    What overflows in half precision is computed again in fp32, sample by sample, so that the latents of a picture do
    not depend on its neighbours in the batch.
    """

    def __init__(self, component: Component, dtype: torch.dtype, device: torch.device) -> None:
        self._component = component
        self._dtype = dtype
        self._device = device
        self._scale = latent_scale(component)
        self._told = False
        self.vae: LazyModule[nn.Module] = LazyModule(
            lambda: _laid_out(load_vae(component, dtype, device), dtype, device)
        )
        self._precise: LazyModule[nn.Module] = LazyModule(lambda: load_vae(component, torch.float32, device))

    @torch.no_grad()
    def encode(self, pixels_BCHW: Tensor) -> LatentDistribution:
        """Scaled latents, fp32, of pictures in [-1, 1].

        Raises:
            BrokenLatents: not finite in fp32 either.
        """
        mean, std = self._encoded(self.vae(), pixels_BCHW)
        broken_B = _broken(mean) | _broken(std)
        if self._retry(broken_B):
            mean[broken_B], std[broken_B] = self._encoded(self._precise(), pixels_BCHW[broken_B.to(pixels_BCHW.device)])
            broken_B = _broken(mean) | _broken(std)
        if bool(broken_B.any()):
            raise BrokenLatents(broken_B.nonzero().flatten().tolist())
        return LatentDistribution((mean - self._scale.shift) * self._scale.factor, std * self._scale.factor)

    @torch.no_grad()
    def decode(self, latents_BChw: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), fp32, in [-1, 1].

        Raises:
            FloatingPointError: not finite in fp32 either.
        """
        raw = latents_BChw.to(self._device).float() / self._scale.factor + self._scale.shift
        pixels = _decoded(self.vae(), raw)
        broken_B = _broken(pixels)
        if self._retry(broken_B):
            pixels[broken_B] = _decoded(self._precise(), raw[broken_B])
        if not bool(pixels.isfinite().all()):
            raise FloatingPointError(
                "decoding latents gives values that are not finite, in fp32 too: the VAE's file is damaged"
            )
        return pixels.clamp(-1, 1)

    def fingerprint(self, notes: Path | None = None) -> str:
        """A hash of what shapes the latents: weights, type, scale.

        Args:
            notes: see `noted_fingerprint`.
        """
        weights = noted_fingerprint(self._component.weights, notes)
        return f"{weights}-{self._dtype}-{self._scale.factor}-{self._scale.shift}"

    def release(self) -> None:
        self.vae.release()
        self._precise.release()

    def _encoded(self, vae: nn.Module, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        weight = next(vae.parameters())
        latents = vae.encode(pixels_BCHW.to(weight.device, weight.dtype)).latent_dist  # type: ignore[operator]
        return latents.mean.float(), latents.std.float()

    def _retry(self, broken_B: Tensor) -> bool:
        if self._dtype == torch.float32 or not bool(broken_B.any()):
            return False
        if not self._told:
            log.warning(
                "the VAE overflows in %s; such pictures are computed again in fp32. `no_half_vae = true` does so at once.",
                str(self._dtype).removeprefix("torch."),
            )
            self._told = True
        return True


def latent_scale(component: Component) -> LatentScale:
    """The scale of a VAE's latents; SD 1.x folders from before the setting existed leave it out."""
    config = component.config
    return LatentScale(float(config.get("scaling_factor") or 0.18215), float(config.get("shift_factor") or 0.0))


def stride(component: Component) -> int:
    """Pixels per latent, along each side."""
    return 2 ** (len(component.config["block_out_channels"]) - 1)


def _laid_out(vae: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """With its channels last in memory, where that suits convolutions: not in fp32 on a GPU."""
    suits = device.type == "cpu" or dtype != torch.float32
    return vae.to(memory_format=torch.channels_last) if suits else vae  # type: ignore[call-overload]


def _decoded(vae: nn.Module, raw_BChw: Tensor) -> Tensor:
    return vae.decode(raw_BChw.to(next(vae.parameters()).dtype)).sample.float()  # type: ignore[operator]


def _broken(values_BCHW: Tensor) -> Tensor:
    """(B,) whether a sample is not finite somewhere."""
    return ~values_BCHW.isfinite().flatten(1).all(dim=1)
