"""From the names of original single files to those of diffusers and transformers: VAE and text encoders.

The UNet's names stand in `library.lora_files.names.unet_names`, which LoRA files share.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial

from torch import Tensor

from library.models.weights import Placement, StoredTensor

_VAE_RESNET = {"nin_shortcut": "conv_shortcut"}
_VAE_ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
    # older diffusers files
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}
_VAE_MIDDLE = {"block_1": "resnets.0", "block_2": "resnets.1", "attn_1": "attentions.0"}
_OPEN_CLIP_TOP = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


def vae_name(original: str, levels: int) -> str:
    """The diffusers name of a VAE parameter, from either the original name or diffusers' own, old or new.

    Args:
        levels: resolutions of the VAE; the original counts the decoder's from the finest, diffusers from the coarsest.
    """
    match original.split("."):
        case [half, "down" | "up" as way, level, "block", index, layer, leaf]:
            return f"{half}.{_vae_level(way, level, levels)}.resnets.{index}.{_VAE_RESNET.get(layer, layer)}.{leaf}"
        case [half, "down" | "up" as way, level, "downsample" | "upsample" as kind, *rest]:
            return ".".join([half, _vae_level(way, level, levels), f"{kind}rs.0", *rest])
        case [half, "mid", part, layer, leaf]:
            names = _VAE_ATTENTION if part == "attn_1" else _VAE_RESNET
            return f"{half}.mid_block.{_VAE_MIDDLE[part]}.{names.get(layer, layer)}.{leaf}"
        case [half, "norm_out", leaf]:
            return f"{half}.conv_norm_out.{leaf}"
        case [half, "mid_block", "attentions", index, layer, leaf]:
            return f"{half}.mid_block.attentions.{index}.{_VAE_ATTENTION.get(layer, layer)}.{leaf}"
    return original


def vae_weights(tensors: Mapping[str, StoredTensor]) -> dict[StoredTensor, tuple[Placement, ...]]:
    """Where each tensor of a VAE goes; `tensors` by its name without the prefix of the file."""
    levels = 1 + max(
        (int(found[1]) for found in map(re.compile(r"decoder\.up\.(\d+)\.").match, tensors) if found), default=0
    )
    return {
        stored: (Placement(_named := vae_name(name, levels), _without_1x1 if _in_vae_attention(_named) else None),)
        for name, stored in tensors.items()
        if stored.is_float and name.startswith(("encoder.", "decoder.", "quant_conv.", "post_quant_conv."))
    }


def open_clip_weights(tensors: Mapping[str, StoredTensor], layers: int) -> dict[StoredTensor, tuple[Placement, ...]]:
    """Where each tensor of an OpenCLIP text encoder goes in transformers' CLIPTextModel, names without `text_model.`.

    Args:
        tensors: by name without the file's prefix.
        layers: how many layers are kept; SD 2.x reads the last but one, so its last is dropped.
    """
    placed = {}
    for name, stored in tensors.items():
        places = tuple(_open_clip_places(name, layers))
        if places:
            placed[stored] = places
    return placed


def without_text_model_level(name: str) -> str:
    """CLIP's parameter names with or without the level `text_model.`, which transformers 5 dropped, in one spelling."""
    return name.removeprefix("text_model.")


def stripped(tensors: Mapping[str, StoredTensor], prefix: str) -> dict[str, StoredTensor]:
    """The tensors whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): stored for name, stored in tensors.items() if name.startswith(prefix)}


def _vae_level(way: str, level: str, levels: int) -> str:
    return f"down_blocks.{level}" if way == "down" else f"up_blocks.{levels - 1 - int(level)}"


def _in_vae_attention(name: str) -> bool:
    return ".attentions." in name and name.endswith(".weight") and "group_norm" not in name


def _without_1x1(weight: Tensor) -> Tensor:
    """The matrix of a linear layer that was written as a 1x1 convolution."""
    return weight[:, :, 0, 0] if weight.ndim == 4 else weight


def _open_clip_places(name: str, layers: int) -> Iterable[Placement]:
    if name in _OPEN_CLIP_TOP:
        return [Placement(_OPEN_CLIP_TOP[name])]
    if name == "text_projection":
        return [Placement("text_projection.weight", _transposed)]
    if name == "text_projection.weight":  # as ComfyUI saves it
        return [Placement(name)]
    match name.split(".", 3):
        case ["transformer", "resblocks", number, rest] if int(number) < layers:
            return _open_clip_layer(f"encoder.layers.{number}", rest)
    return []


def _open_clip_layer(layer: str, rest: str) -> list[Placement]:
    """One parameter of a layer; the fused query, key and value become three."""
    if rest.startswith("attn.in_proj_"):
        leaf = rest.removeprefix("attn.in_proj_")
        names = (f"{layer}.self_attn.{which}_proj.{leaf}" for which in "qkv")
        return [Placement(name, partial(_third, number=number)) for number, name in enumerate(names)]
    part, _, leaf = rest.rpartition(".")
    return [Placement(f"{layer}.{_OPEN_CLIP_LAYER[part]}.{leaf}")]


def _third(fused: Tensor, number: int) -> Tensor:
    return fused.chunk(3)[number]


def _transposed(matrix: Tensor) -> Tensor:
    return matrix.T
