"""From the data engine's examples to the tensors of a step, with every random number drawn here.

Letters: B samples, C latent channels, h w latent size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from library.config.schema import NoiseConfig
from library.core.randomness import torch_generator
from library.data.types import BrokenLatents, Conditioning, Example, LatentDistribution, MicroBatch, Tokens
from library.diffusion.noise import Noise, draw_noise
from library.diffusion.timesteps import draw_timestep


@dataclass(frozen=True)
class Batch:
    """Everything that a forward pass reads: tensors, and facts about them for reports."""

    latents: Tensor
    """(B, C, h, w) scaled latents."""
    noise: Tensor
    """(B, C, h, w) the noise to be predicted."""
    corrupting_noise: Tensor
    """(B, C, h, w) the noise that is added: `noise`, plus input perturbation."""
    timesteps: Tensor
    """(B,)"""
    geometry: Tensor
    """(B, 6) see `Geometry.values`."""
    weight: Tensor
    """(B,) weight of each sample's loss."""
    mask: Tensor | None
    """(B, 1, h, w) weight of each latent's error."""
    conditioning: Conditioning | None
    """Cached text-encoder outputs; None: `prompts` are encoded in the step."""
    prompts: list[str]
    images: list[str]
    keeps_prior: Tensor | None
    """(B,) whose target is the frozen model's prediction; None where it is nobody's."""
    multiplier: float
    step: int
    micro: int
    epoch: int
    global_size: int
    tokens: Tokens | None = None
    """`prompts` as tokens, where they are encoded in the step."""
    part: tuple[int, ...] = ()
    """Where it is a part of a batch: which half, of which half, and so on, 0 or 1 each."""

    def to(self, device: torch.device) -> Self:
        """The batch with its tensors on the device, copied without waiting."""
        return self.with_tensors(lambda tensor: sendable(tensor, device).to(device, non_blocking=True))

    def padded(self, size: int) -> Self:
        """The batch with its last sample repeated up to `size` samples; the repetitions weigh nothing.

        `prompts` and `images` stay those of the real samples.
        """
        missing = size - len(self.weight)
        if missing <= 0:
            return self
        longer = self.with_tensors(lambda tensor: torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]))
        return replace(longer, weight=torch.cat([self.weight, torch.zeros(missing)]))

    def halves(self) -> tuple[Self, Self]:
        """The first half of the samples, which has one more where their number is odd, and the second."""
        middle = (len(self.weight) + 1) // 2
        return self._only(slice(middle), 0), self._only(slice(middle, None), 1)

    def _only(self, samples: slice, half: int) -> Self:
        cut = self.with_tensors(lambda tensor: tensor[samples])
        return replace(cut, prompts=self.prompts[samples], images=self.images[samples], part=(*self.part, half))

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name; those of the conditioning and the tokens as `conditioning.hidden`, `tokens.ids`."""
        found: dict[str, Tensor] = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                found[name] = value
            elif isinstance(value, dict):
                found |= {f"{name}.{key}": tensor for key, tensor in value.items()}
        return found

    def pin_memory(self) -> Self:
        """The batch in page-locked memory, from which it is copied to a GPU while that computes; called by the loader."""
        return self.with_tensors(Tensor.pin_memory)

    def with_tensors(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The batch with each tensor changed."""
        changed: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                changed[name] = change(value)
            elif isinstance(value, dict):
                changed[name] = {key: change(tensor) for key, tensor in value.items()}
        return replace(self, **changed)


def pictures_of(batches: Sequence[Batch]) -> str:
    """For reports: "a.png at timestep 17; b.png at timestep 980"."""
    return "; ".join(
        f"{image} at timestep {t}" for batch in batches for image, t in zip(batch.images, batch.timesteps.tolist())
    )


def sendable(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor where a copy to the device need not wait for it: page-locked, if it goes from the CPU to a GPU."""
    waits = device.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned()
    return tensor.pin_memory() if waits else tensor


@dataclass(frozen=True)
class Draws:
    """Every random number of a training sample, as a function of its position in the run."""

    seed: int
    noise: NoiseConfig
    timesteps: range
    """Timesteps that are trained."""

    def latents(self, example: Example, distribution: LatentDistribution) -> Tensor:
        """(C, h, w) drawn from what the VAE says of the picture, anew at every step."""
        generator = torch_generator(self.seed, "latents", *example.position)
        return distribution.sample(torch.randn(distribution.mean.shape, generator=generator))

    def timestep(self, example: Example) -> int:
        """Uniform over the timesteps that are trained."""
        return draw_timestep(self.timesteps, torch_generator(self.seed, "timestep", *example.position))

    def noises(self, example: Example, latents_Chw: Tensor) -> Noise:
        """The noise to be predicted, and the noise that corrupts."""
        channels, height, width = latents_Chw.shape
        generator = torch_generator(self.seed, "noise", *example.position)
        return draw_noise((channels, height, width), generator, self.noise, latents_Chw)


class Collate:
    """Turns a micro-batch with cached latents into a batch, in the loader's worker; passes one with pixels on."""

    def __init__(self, draws: Draws) -> None:
        self.draws = draws

    def __call__(self, micro: MicroBatch) -> Batch | MicroBatch:
        latents = [example.latents for example in micro.examples if example.latents is not None]
        if len(latents) < len(micro.examples) or not latents:
            return micro
        return assemble(micro, latents, self.draws)


def encode_and_assemble(
    micro: MicroBatch, encode: Callable[[Tensor], LatentDistribution], draws: Draws, device: torch.device
) -> Batch:
    """The batch of pictures whose latents cannot be cached: the VAE encodes them now.

    Raises:
        UserError: with `Exit.BROKEN_VALUES`, a picture whose latents are not finite.
    """
    pixels = torch.stack([example.pixels for example in micro.examples if example.pixels is not None])
    try:
        encoded = encode(pixels.to(device))
    except BrokenLatents as error:
        raise error.told_of([example.image for example in micro.examples]) from error
    latents = [LatentDistribution(mean.cpu(), std.cpu()) for mean, std in zip(encoded.mean, encoded.std)]
    return assemble(micro, latents, draws)


def assemble(micro: MicroBatch, distributions: Sequence[LatentDistribution], draws: Draws) -> Batch:
    """Draw what is random and stack it."""
    examples = micro.examples
    latents = [draws.latents(example, found) for example, found in zip(examples, distributions)]
    noises = [draws.noises(example, sample) for example, sample in zip(examples, latents)]
    return Batch(
        latents=torch.stack(latents),
        noise=torch.stack([noise.target for noise in noises]),
        corrupting_noise=torch.stack([noise.corrupting for noise in noises]),
        timesteps=torch.tensor([draws.timestep(example) for example in examples]),
        geometry=torch.tensor([example.geometry.values() for example in examples]),
        weight=torch.tensor([example.weight for example in examples]),
        mask=_masks(examples),
        conditioning=_conditioning(examples),
        prompts=[example.caption for example in examples],
        images=[example.image for example in examples],
        keeps_prior=_keeps_prior(examples),
        multiplier=examples[0].multiplier,
        step=micro.step,
        micro=micro.micro,
        epoch=micro.epoch,
        global_size=micro.global_size,
    )


def _masks(examples: Sequence[Example]) -> Tensor | None:
    """The masks, with ones for pictures that have none; None where no picture has one."""
    found = next((example.mask for example in examples if example.mask is not None), None)
    if found is None:
        return None
    return torch.stack([torch.ones_like(found) if example.mask is None else example.mask for example in examples])


def _keeps_prior(examples: Sequence[Example]) -> Tensor | None:
    marks = [example.keeps_prior for example in examples]
    return torch.tensor(marks) if any(marks) else None


def _conditioning(examples: Sequence[Example]) -> Conditioning | None:
    found = [example.conditioning for example in examples if example.conditioning is not None]
    if len(found) < len(examples):
        return None
    return {name: torch.stack([conditioning[name] for conditioning in found]) for name in found[0]}
