"""The data's vocabulary, shared by everything above.

Letters: B samples, C latent channels, h w latent height and width, H W picture height and width in pixels, T tokens, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from library.core.errors import Exit, UserError
from library.data.pictures.placement import Geometry

Conditioning = dict[str, Tensor]
"""What the text encoders give the UNet, flat so that it caches as safetensors: `hidden` (B, T, D) and, for SDXL, `pooled` (B, D)."""

Tokens = dict[str, Tensor]
"""What the tokenizers give the text encoders: `ids` (B, chunks, 77), with `weights` alike for weighted captions, and so on."""


@dataclass(frozen=True)
class LatentDistribution:
    """What the VAE says of pictures: a Gaussian over scaled latents, (B, C, h, w) or (C, h, w)."""

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Latents drawn with the given standard normal noise, in its type."""
        return self.mean.to(noise.dtype) + self.std.to(noise.dtype) * noise


class BrokenLatents(FloatingPointError):
    """Pictures whose latents are not finite numbers, in fp32 either.

    Args:
        places: theirs in the batch that was to be encoded.
    """

    def __init__(self, places: Sequence[int]) -> None:
        super().__init__("the VAE's latents are not finite numbers, in fp32 too")
        self.places = list(places)

    def told_of(self, images: Sequence[str]) -> UserError:
        """What to tell the user; `images` are the paths of the batch's pictures."""
        return UserError(
            f"{', '.join(images[place] for place in self.places)}: {self}. Where other pictures fare alike, the VAE's file is "
            "damaged or does not suit: name another with `vae`. Otherwise leave the picture out.",
            Exit.BROKEN_VALUES,
        )


@dataclass(frozen=True)
class Example:
    """One training sample as the data engine hands it over; CPU tensors without a batch axis.

    Exactly one of `latents` and `pixels` is set, depending on whether latents are cached.
    """

    position: tuple[int, int]
    """(step, place in the step's global batch): the index of every random draw that belongs to this sample."""
    image: str
    """Path of the picture, for reports."""
    caption: str
    """The caption after the whole caption pipeline."""
    latents: LatentDistribution | None
    pixels: Tensor | None
    """(3, H, W) in [-1, 1]."""
    conditioning: Conditioning | None
    """The encoded caption where text-encoder outputs are cached, without the batch axis."""
    mask: Tensor | None
    """(1, h, w) at the latents' size, in [0, 1]."""
    geometry: Geometry
    weight: float
    """Weight of the sample's loss: prior_loss_weight for regularisation pictures, prior_prediction_weight with prior prediction, else 1."""
    keeps_prior: bool
    """The frozen model's prediction is the target (prior prediction, or pictures whose output is kept)."""
    multiplier: float
    """Strength of the network for this sample (network_multiplier)."""


@dataclass(frozen=True)
class MicroBatch:
    """What one process computes in one forward pass: a part of a step's global batch, all of one size.

    May be empty on some processes when the step's global batch is short.
    """

    examples: list[Example]
    step: int
    """Optimizer update this belongs to, from 0."""
    micro: int
    """Which of the step's gradient_accumulation_steps passes, from 0."""
    epoch: int
    global_size: int
    """Samples in the step's global batch, over all processes and passes: what the loss is averaged over."""
