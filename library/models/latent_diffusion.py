"""A latent diffusion model put together from its parts. The families differ in the parts that they are given.

Letters: B samples, C latent channels, h w latent size, H W picture size, T tokens, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor, nn

from library.data.types import Conditioning, LatentDistribution, Tokens
from library.diffusion.process import NoiseProcess
from library.models.architecture import Family
from library.models.base import LatentSpec, Part
from library.models.checkpoint import Component
from library.models.checkpointing import checkpoint_unet
from library.models.image_coding import ImageCoder
from library.models.noted_fingerprint import noted_fingerprint
from library.models.parts import LazyModule
from library.models.prompt_encoding import PromptEncoder

AddedConditions = Callable[[Conditioning, Tensor], dict[str, Tensor] | None]
"""(conditioning, geometry_B6) to what the UNet takes beside the hidden states, as diffusers' `added_cond_kwargs`."""


class LatentDiffusion:
    """The `DiffusionModel` of SD 1.x, SD 2.x and SDXL.

    Args:
        unet: loads the UNet.
        unet_component: where the UNet's weights are, for the fingerprint.
        images: the VAE.
        prompts: the text encoders.
        added_conditions: what the UNet takes beside the hidden states.
        describe: the `ss_*` entries; called once, since hashing a file takes seconds.
        dtype: type in which the UNet computes.
    """

    def __init__(
        self,
        family: Family,
        latents: LatentSpec,
        process: NoiseProcess,
        unet: LazyModule[nn.Module],
        unet_component: Component,
        images: ImageCoder,
        prompts: PromptEncoder,
        added_conditions: AddedConditions,
        describe: Callable[[], dict[str, str]],
        dtype: torch.dtype,
    ) -> None:
        self.family: str = family
        self.latents = latents
        self.process = process
        self._unet = unet
        self._unet_component = unet_component
        self._images = images
        self._prompts = prompts
        self._added_conditions = added_conditions
        self._describe = describe
        self._dtype = dtype
        self._fingerprints: dict[Part, str] = {}
        self._description: dict[str, str] | None = None
        self._describing = Lock()

    def hosts(self, parts: Sequence[Part]) -> dict[str, nn.Module]:
        """The modules that a network attaches to: "unet", "te1", "te2"."""
        found: dict[str, nn.Module] = {}
        if "unet" in parts:
            found["unet"] = self._unet()
        if "text_encoders" in parts:
            found |= self._prompts.hosts()
        return found

    def encode_images(self, pixels_BCHW: Tensor) -> LatentDistribution:
        """Scaled latents, fp32, of pictures in [-1, 1].

        Raises:
            BrokenLatents: not finite in fp32 either.
        """
        return self._images.encode(pixels_BCHW)

    def decode_latents(self, latents_BChw: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), fp32, in [-1, 1]."""
        return self._images.decode(latents_BChw)

    def tokenize(self, prompts: Sequence[str]) -> Tokens:
        """CPU tensors (B, chunks, window)."""
        return self._prompts.tokenize(prompts)

    def encode_tokens(self, tokens: Tokens) -> Conditioning:
        """Differentiable with respect to what is attached to the text encoders."""
        return self._prompts.encode_tokens(tokens)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """`encode_tokens(tokenize(prompts))` without gradients."""
        return self.encode_tokens(self.tokenize(prompts))

    def predict(self, noisy_BChw: Tensor, t_B: Tensor, conditioning: Conditioning, geometry_B6: Tensor) -> Tensor:
        """The UNet's prediction (B, C, h, w), in the UNet's type."""
        cast = {name: value.to(self._dtype) for name, value in conditioning.items()}
        return self._unet()(
            noisy_BChw.to(self._dtype, memory_format=torch.channels_last),
            t_B,
            encoder_hidden_states=cast["hidden"],
            added_cond_kwargs=self._added_conditions(cast, geometry_B6),
            return_dict=False,
        )[0]

    def count_tokens(self, prompt: str) -> int:
        """Tokens of the prompt without start and end."""
        return self._prompts.count_tokens(prompt)

    def fingerprint(self, part: Part, notes: Path | None = None) -> str:
        """A hash of the part's weights and of the settings that shape its output; computed once.

        Args:
            notes: folder in which hashes of large files are kept, see `noted_fingerprint`.
        """
        if part not in self._fingerprints:
            computed: dict[Part, Callable[[Path | None], str]] = {
                "unet": partial(noted_fingerprint, self._unet_component.weights),
                "vae": self._images.fingerprint,
                "text_encoders": self._prompts.fingerprint,
            }
            self._fingerprints[part] = computed[part](notes)
        return self._fingerprints[part]

    def release(self, part: Part) -> None:
        """Drop the part from memory; it loads again when next used."""
        {"unet": self._unet.release, "vae": self._images.release, "text_encoders": self._prompts.release}[part]()

    def enable_gradient_checkpointing(self, selective: bool, random: bool) -> None:
        """Recompute the activations of the UNet (only the cheap ones, if `selective`) and of the text encoders' layers.

        Args:
            random: random numbers are drawn in the modules, by a network with dropout.
        """
        self._unet.prepare(lambda unet: checkpoint_unet(unet, selective, random))
        self._prompts.enable_gradient_checkpointing(random)

    def metadata(self) -> dict[str, str]:
        """The `ss_*` entries that describe the base model; may be asked for in several threads, and is computed in one."""
        with self._describing:
            if self._description is None:
                self._description = self._describe()
        return dict(self._description)
