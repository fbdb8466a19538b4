"""From the names of diffusers and transformers to those of original single files: the inverse of reading one."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from library.lora_files.names.unet_names import layout_of, original_unet_module
from library.models.architecture import Family
from library.models.original_names import without_text_model_level
from library.models.single_file import CLIP, OPEN_CLIP, UNET, UNUSED_SD2_LAYERS, VAE

_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm": "ln_",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.": "attn.",
}
_QUERY = re.compile(r"(.*\.attn\.)q_proj\.(weight|bias)")

State = Mapping[str, Tensor]


def original_checkpoint(parts: Mapping[str, State], family: Family) -> dict[str, Tensor]:
    """All tensors of a single file.

    Args:
        parts: state dicts by component: unet, vae, text_encoder, and text_encoder_2 for SDXL.
    """
    layout = layout_of(parts["unet"])
    tensors = {UNET + original_unet_module(name, layout): value for name, value in parts["unet"].items()}
    tensors |= {VAE + name: value for name, value in original_vae(parts["vae"]).items()}
    encoders = [parts[name] for name in ("text_encoder", "text_encoder_2") if name in parts]
    if family in CLIP:
        tensors |= {
            f"{CLIP[family]}text_model.{without_text_model_level(name)}": value for name, value in encoders[0].items()
        }
    if family in OPEN_CLIP:
        state = _with_unused_layer(encoders[-1]) if family == "sd2" else encoders[-1]
        tensors |= {OPEN_CLIP[family] + name: value for name, value in original_open_clip(state).items()}
    return tensors


def original_vae(state: State) -> dict[str, Tensor]:
    """The VAE's tensors; its attention's matrices become 1x1 convolutions."""
    levels = 1 + max(int(found[1]) for found in map(re.compile(r"decoder\.up_blocks\.(\d+)\.").match, state) if found)
    return {
        _original_vae_name(name, levels): value[:, :, None, None]
        if ".attentions." in name and value.ndim == 2
        else value
        for name, value in state.items()
    }


def original_open_clip(state: State) -> dict[str, Tensor]:
    """The tensors of an OpenCLIP text encoder: query, key and value fused, the projection transposed."""
    renamed = {_replaced(without_text_model_level(name), _OPEN_CLIP): value for name, value in state.items()}
    tensors: dict[str, Tensor] = {}
    for name, value in renamed.items():
        query = _QUERY.fullmatch(name)
        if query:
            thirds = [renamed[f"{query[1]}{which}_proj.{query[2]}"] for which in "qkv"]
            tensors[f"{query[1]}in_proj_{query[2]}"] = torch.cat(thirds)
        elif name == "text_projection.weight":
            tensors["text_projection"] = value.T.contiguous()
        elif not re.search(r"\.attn\.[kv]_proj\.", name):
            tensors[name] = value
    return tensors


def _original_vae_name(name: str, levels: int) -> str:
    match name.split("."):
        case [half, "down_blocks", level, "resnets", index, layer, leaf]:
            return f"{half}.down.{level}.block.{index}.{_shortcut(layer)}.{leaf}"
        case [half, "up_blocks", level, "resnets", index, layer, leaf]:
            return f"{half}.up.{levels - 1 - int(level)}.block.{index}.{_shortcut(layer)}.{leaf}"
        case [half, "down_blocks", level, "downsamplers", "0", *rest]:
            return ".".join([half, "down", level, "downsample", *rest])
        case [half, "up_blocks", level, "upsamplers", "0", *rest]:
            return ".".join([half, "up", str(levels - 1 - int(level)), "upsample", *rest])
        case [half, "mid_block", "resnets", index, layer, leaf]:
            return f"{half}.mid.block_{int(index) + 1}.{_shortcut(layer)}.{leaf}"
        case [half, "mid_block", "attentions", "0", *layer, leaf]:
            return f"{half}.mid.attn_1.{_VAE_ATTENTION['.'.join(layer)]}.{leaf}"
    return name.replace("conv_norm_out", "norm_out")


def _shortcut(layer: str) -> str:
    return "nin_shortcut" if layer == "conv_shortcut" else layer


def _with_unused_layer(state: State) -> dict[str, Tensor]:
    """SD 2.x files carry one layer more than is read; here it repeats the last."""
    named = {without_text_model_level(name): value for name, value in state.items()}
    layers = 1 + max(int(name.split(".")[2]) for name in named if name.startswith("encoder.layers."))
    last = f"encoder.layers.{layers - 1}."
    extra = f"encoder.layers.{layers - 1 + UNUSED_SD2_LAYERS}."
    return named | {
        extra + name.removeprefix(last): value.clone() for name, value in named.items() if name.startswith(last)
    }


def _replaced(name: str, table: Mapping[str, str]) -> str:
    for old, new in table.items():
        name = name.replace(old, new)
    return name
