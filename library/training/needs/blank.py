"""What a run's parts are given on the meta device: batches, pictures and latents of a size, without numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from library.config.schema import Config
from library.data.pictures.buckets import Size
from library.data.types import Conditioning
from library.models.base import DiffusionModel
from library.training.batch import Batch

META = torch.device("meta")


def blank_pixels(count: int, size: Size) -> Tensor:
    """(count, 3, H, W)."""
    return torch.empty(count, 3, size[1], size[0], device=META)


def blank_latents(model: DiffusionModel, count: int, size: Size) -> Tensor:
    """(count, C, h, w)."""
    stride = model.latents.stride
    return torch.empty(count, model.latents.channels, size[1] // stride, size[0] // stride, device=META)


def blank_batch(
    config: Config, model: DiffusionModel, size: Size, count: int, conditioning: Conditioning | None
) -> Batch:
    """A batch with everything that the configuration may ask of one.

    Args:
        size: width and height in pixels.
        count: samples.
        conditioning: of any number of samples; None: captions are encoded in the step.
    """
    loss, latents = config.loss, blank_latents(model, count, size)
    if conditioning is not None:
        conditioning = {name: rows[:1].expand(count, *rows.shape[1:]) for name, rows in conditioning.items()}
    return Batch(
        latents=latents,
        noise=torch.empty_like(latents),
        corrupting_noise=torch.empty_like(latents),
        timesteps=torch.zeros(count, dtype=torch.long, device=META),
        geometry=torch.zeros(count, 6, dtype=torch.long, device=META),
        weight=torch.ones(count, device=META),
        mask=torch.empty_like(latents[:, :1]) if loss.masked_loss else None,
        conditioning=conditioning,
        prompts=[""] * count,
        images=[""] * count,
        keeps_prior=torch.ones(count, dtype=torch.bool, device=META) if loss.prior_prediction_rate > 0 else None,
        multiplier=1.0,
        step=0,
        micro=0,
        epoch=0,
        global_size=count,
    )
