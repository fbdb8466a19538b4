"""What is minimised: how far the prediction is from the target, for each sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from library.data.types import Conditioning
from library.diffusion.distance import Distance
from library.models.base import DiffusionModel
from library.training.batch import Batch

TimestepWeight = Callable[[Tensor], Tensor]
"""t_B -> (B,) weight of the timestep."""


class Objective:
    """The diffusion loss of Ho et al. 2020, eq. 14, with the target, distance and weighting that were asked for."""

    def __init__(self, model: DiffusionModel, distance: Distance, weighting: TimestepWeight) -> None:
        self.model = model
        self.distance = distance
        self.weighting = weighting

    def __call__(self, batch: Batch, conditioning: Conditioning, prior: Tensor | None = None) -> Tensor:
        """One loss a sample, (B,) in fp32.

        Args:
            prior: (B, C, h, w) the frozen model's prediction; the target of the samples that keep it.
        """
        process = self.model.process
        target = process.target(batch.latents, batch.noise, batch.timesteps)
        if prior is not None and batch.keeps_prior is not None:
            target = torch.where(batch.keeps_prior.view(-1, 1, 1, 1), prior, target)
        error = self.distance(self.predict(batch, conditioning), target, batch.timesteps)
        if batch.mask is not None:
            error = error * batch.mask
        return batch.weight * self.weighting(batch.timesteps) * error.mean(dim=(1, 2, 3))

    def predict(self, batch: Batch, conditioning: Conditioning) -> Tensor:
        """The model's prediction (B, C, h, w) in fp32."""
        noisy = self.model.process.corrupt(batch.latents, batch.corrupting_noise, batch.timesteps)
        return self.model.predict(noisy, batch.timesteps, conditioning, batch.geometry).float()
