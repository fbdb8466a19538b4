"""First stage: the demo model's VAE, 64x64x3 pixels to 16x16x4 latents and back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

KL_WEIGHT = 5e-4
EDGE_WEIGHT = 0.5
COARSE_WEIGHT = 0.5


def build_autoencoder() -> AutoencoderKL:
    """A small AutoencoderKL of stride 4, about 1.6M parameters."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def autoencoder_loss(vae: AutoencoderKL, pixels_BCHW: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The loss of one batch, and its mean absolute error in units of the pixel range -1...1."""
    posterior = vae.encode(pixels_BCHW).latent_dist
    drawn_BCHW = vae.decode(posterior.sample(generator)).sample.float()
    error = (drawn_BCHW - pixels_BCHW).abs().mean()
    coarse = (F.avg_pool2d(drawn_BCHW, 4) - F.avg_pool2d(pixels_BCHW, 4)).abs().mean()
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    loss = error + EDGE_WEIGHT * _edge_error(drawn_BCHW, pixels_BCHW) + COARSE_WEIGHT * coarse + KL_WEIGHT * kl
    return loss, error.detach()


def _edge_error(drawn_BCHW: Tensor, pixels_BCHW: Tensor) -> Tensor:
    """Mean absolute error of horizontal and vertical differences: keeps outlines crisp where plain L1 would blur them."""
    difference = drawn_BCHW - pixels_BCHW
    return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()


def vary_colours(pixels_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Flip half of the batch, and permute the colour channels of half of it.

    The base pictures hold few colours; a VAE that has seen permuted ones also rebuilds colours they never show.
    """
    count = len(pixels_BCHW)
    flips_B = torch.rand(count, generator=generator) < 0.5
    pixels_BCHW = torch.where(flips_B[:, None, None, None], pixels_BCHW.flip(-1), pixels_BCHW)
    orders_BC = torch.rand(count, 3, generator=generator).argsort(dim=1)
    plain_B = torch.rand(count, generator=generator) < 0.5
    orders_BC[plain_B] = torch.arange(3)
    return pixels_BCHW[torch.arange(count)[:, None], orders_BC]


@torch.no_grad()
def encode_all(vae: AutoencoderKL, pictures, batch_size: int = 64) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the latents of uint8 pictures (N, 64, 64, 3): two tensors (N, 4, 16, 16), unscaled."""
    means, deviations = [], []
    for start in range(0, len(pictures), batch_size):
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(to_pixels(pictures[start : start + batch_size])).latent_dist
        means.append(posterior.mean.float())
        deviations.append(posterior.std.float())
    return torch.cat(means), torch.cat(deviations)


def to_pixels(pictures) -> Tensor:
    """uint8 (B, H, W, 3) to floats (B, 3, H, W) in -1...1."""
    return torch.from_numpy(pictures.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1.0
