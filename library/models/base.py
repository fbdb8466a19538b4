"""What the trainer needs of a diffusion model. A new family is one file that offers this, and a line in the registry.

Letters: B samples, C latent channels, h w latent size, H W picture size, T tokens, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor, nn

from library.data.types import Conditioning, LatentDistribution, Tokens
from library.diffusion.process import NoiseProcess

Part = Literal["unet", "vae", "text_encoders"]


@dataclass(frozen=True)
class LatentSpec:
    """The space in which the model diffuses."""

    channels: int
    stride: int
    """Pixels per latent, along each side."""
    native_resolution: int
    """Side in pixels of the square pictures that the model was made for."""


class DiffusionModel(Protocol):
    """A base model whose parts load on first use and can be released again.

    `release("vae")` after caching frees the VAE; a later `decode_latents` loads it anew. A run with warm caches never
    loads what it does not need. All parts are frozen (requires_grad False) and in eval mode.
    """

    family: str
    """"sd1", "sd2" or "sdxl": decides the names in LoRA files and their metadata."""
    latents: LatentSpec
    process: NoiseProcess

    def hosts(self, parts: Sequence[Part]) -> dict[str, nn.Module]:
        """The modules that a network attaches to: {"unet": ..., "te1": ...}; SDXL has "te1" and "te2" (SD: "te1")."""
        ...

    def encode_images(self, pixels_BCHW: Tensor) -> LatentDistribution:
        """Scaled latents of pictures in [-1, 1]; computed again in fp32 where half precision overflows.

        Raises:
            BrokenLatents: not finite in fp32 either.
        """
        ...

    def decode_latents(self, latents_BChw: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] of scaled latents."""
        ...

    def tokenize(self, prompts: Sequence[str]) -> Tokens:
        """CPU tensors, always of the same shape for the same max_token_length."""
        ...

    def encode_tokens(self, tokens: Tokens) -> Conditioning:
        """Differentiable with respect to what is attached to the text encoders."""
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """`encode_tokens(tokenize(prompts))` without gradients."""
        ...

    def predict(self, noisy_BChw: Tensor, t_B: Tensor, conditioning: Conditioning, geometry_B6: Tensor) -> Tensor:
        """The UNet's prediction (B, C, h, w), in its own type; `geometry_B6` holds `Geometry.values()`."""
        ...

    def count_tokens(self, prompt: str) -> int:
        """Tokens of the prompt without start and end."""
        ...

    def fingerprint(self, part: Part, notes: Path | None = None) -> str:
        """A hash of the part's weights and of the settings that shape its output; key of the caches.

        Args:
            notes: folder in which hashes of large files may be kept, by the files' stat.
        """
        ...

    def release(self, part: Part) -> None:
        """Drop the part from memory; it loads again when next used."""
        ...

    def enable_gradient_checkpointing(self, selective: bool, random: bool) -> None:
        """Recompute activations in the backward pass: all of the text encoders' layers and of the UNet's blocks, or of the UNet
        only those that cost little (`selective`).

        Args:
            random: random numbers are drawn in the modules, by a network with dropout.
        """
        ...

    def metadata(self) -> dict[str, str]:
        """The `ss_*` entries that describe the base model: name, hash, base version, v2, v-prediction."""
        ...
