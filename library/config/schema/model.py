"""The base model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from library.config.schema.fields import option


@dataclass(frozen=True)
class ModelConfig:
    """Which model is trained. Its family (SD 1.x, SD 2.x, SDXL) is recognised from the weights."""

    pretrained_model_name_or_path: str = option("", path="input")
    """A diffusers folder, a single .safetensors file as downloaded from model sites, or a hub name."""
    vae: str | None = option(None, path="input")
    """Another VAE: a folder, a .safetensors file or a hub name."""
    tokenizer: str | None = option(None, path="input")
    """Folder or hub name of the CLIP tokenizer. Needed only with single files, where the hub cache does not hold one."""
    model_family: str | None = None
    """Name of the model family. Unset: recognised from the weights; if set, it must agree with them."""
    v2: bool | None = None
    """Says that the model is SD 2.x. Unset: recognised; if set, it must agree with the weights."""
    v_parameterization: bool | None = option(None, aliases=("v_pred",))
    """The model predicts v instead of the noise. Unset: recognised where the model says so, else false."""
    clip_skip: int | None = option(None, minimum=1, maximum=12, zero_is_unset=True)
    """Use the output of this layer of the text encoder counted from the end (1 = last).
    Unset is right for SD 2.x and SDXL: it reads the layer that they were trained on."""
    max_token_length: int | None = option(None, parse=lambda value: _token_length(value))
    """Longest prompt in tokens: 75, 150 or 225. Longer prompts are read in pieces of 75."""
    weighted_captions: bool = False
    """Read `(tag:1.2)` in captions as emphasis."""
    zero_terminal_snr: bool = False
    """Rescale the noise schedule so that the last timestep is pure noise (Lin et al. 2023). Meant for v-prediction."""
    attention: Literal["sdpa", "xformers"] = "sdpa"
    """How attention is computed. `xformers = true` and `sdpa = true` are understood too."""
    no_half_vae: bool = False
    """Keep the VAE in fp32 whatever the precision of the rest."""


def _token_length(value: object) -> int | None:
    if value is None or value in (75, 150, 225, "75", "150", "225"):
        return None if value is None else int(str(value))
    raise ValueError("75, 150 or 225")
