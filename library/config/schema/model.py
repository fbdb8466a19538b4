"""The base model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from library.config.schema.fields import option

Quantised = Literal["none", "fp8", "int8", "nf4"]


@dataclass(frozen=True)
class ModelConfig:
    """Which model is trained. Its family (SD 1.x, SD 2.x, SDXL) is recognised from the weights."""

    pretrained_model_name_or_path: str = option("", path="input")
    """A diffusers folder, a single .safetensors file as downloaded from model sites, or a hub name. For .ckpt see allow_pickle."""
    vae: str | None = option(None, path="input")
    """Another VAE: a folder, a .safetensors file or a hub name."""
    tokenizer: str | None = option(None, path="input")
    """Folder or hub name of the CLIP tokenizer. Needed only with single files, where the hub cache does not hold one."""
    allow_pickle: bool = False
    """Read a base model, VAE or LoRA in a .ckpt, .pt, .pth or .bin file too. Its tensors are taken out once, into a safetensors
    file in the folder of the caches, by PyTorch's reader for weights alone, which runs nothing that is in the file. Such files are
    made to run programs, though, and a fault in that reader would let them: allow it only where you trust who made the file."""
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
    attention: Literal["auto", "sdpa", "xformers"] = "auto"
    """How attention is computed: sdpa by PyTorch, xformers by that package (`sdpa = true`, `xformers = true` are understood too).
    auto is sdpa, but on a processor with AVX512-BF16 and in bf16 a kernel of our own, where a C compiler is there to build it."""
    no_half_vae: bool = False
    """Keep the VAE in fp32 whatever the precision of the rest."""
    quantize_base: Quantised = "none"
    """Keep the UNet's frozen weights in fewer bits, a half (int8, fp8) or a quarter (nf4) of their size, and unpack each when
    it is used: less memory, somewhat slower. int8 is the most exact, nf4 the smallest. `fp8_base = true` is fp8."""
    quantize_text_encoders: Quantised = "none"
    """The same for the text encoders. Of use only where they stay in memory: where they are trained, or their outputs not cached."""
    blocks_to_swap: int | None = option(None, minimum=1, zero_is_unset=True)
    """Transformer blocks of the UNet (SD 1.x and 2.x have 16, SDXL 70) whose weights wait in the CPU's memory and come to the
    GPU for the time of their use. Needs gradient_checkpointing."""


def _token_length(value: object) -> int | None:
    if value is None or value in (75, 150, 225, "75", "150", "225"):
        return None if value is None else int(str(value))
    raise ValueError("75, 150 or 225")
