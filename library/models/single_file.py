"""Models in one .safetensors file, in the original layout of Stable Diffusion, as model sites give them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from library.core.errors import UserError
from library.lora_files.names.unet_names import diffusers_unet_module
from library.models.architecture import Family, text_encoder_config, unet_config, vae_config
from library.models.checkpoint import Checkpoint, Component
from library.models.original_names import (
    open_clip_weights,
    stripped,
    vae_weights,
    without_text_model_level,
)
from library.models.recognise import family_of_unet, refuse_foreign, refuse_relatives
from library.models.weights import Placement, StoredTensor, Weights, placed_shapes, read_header

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP = {"sd1": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}
OPEN_CLIP = {"sd2": "cond_stage_model.model.", "sdxl": "conditioner.embedders.1.model."}
UNUSED_SD2_LAYERS = 1
"""SD 2.x conditions on the last but one layer of its text encoder; files carry the last one too."""


def read_single_file(file: Path) -> Checkpoint:
    """A checkpoint in the original layout, in diffusers' and transformers' names.

    Raises:
        UserError: cannot be read, or is something else.
    """
    tensors = read_header(file).tensors
    unet = unet_weights(stripped(tensors, UNET))
    if not unet:
        refuse_foreign(file, tensors)
    refuse_relatives(file, tensors)
    shapes = placed_shapes(unet)
    family = family_of_unet(shapes, file)
    components = {"unet": Component(unet_config(shapes, family), unet)}
    vae = stripped(tensors, VAE)
    if vae:
        components["vae"] = _vae(vae, family)
    v_marked, zero_snr_marked = "v_pred" in tensors, "ztsnr" in tensors
    return Checkpoint(
        path=file,
        components=components | _text_encoders(tensors, family, file),
        prediction="v" if v_marked else None,
        zero_terminal_snr=zero_snr_marked,
    )


def read_vae_file(file: Path, family: Family) -> Component:
    """A VAE in a file of its own, or the one of a whole checkpoint.

    Raises:
        UserError: the file holds no VAE.
    """
    tensors = read_header(file).tensors
    vae = stripped(tensors, VAE) or tensors
    if "encoder.conv_in.weight" not in vae:
        raise UserError(f"vae: '{file}' holds no VAE (its first tensor is '{next(iter(tensors), 'none')}').")
    return _vae(vae, family)


def unet_weights(tensors: Mapping[str, StoredTensor]) -> Weights:
    """Where each tensor of an original UNet goes; empty when these are not the names of one."""
    if "input_blocks.0.0.weight" not in tensors:
        return {}
    try:
        return {
            stored: (Placement(diffusers_unet_module(name)),) for name, stored in tensors.items() if stored.is_float
        }
    except KeyError as error:
        raise UserError(
            f"the UNet in '{next(iter(tensors.values())).file}' has a part that Stable Diffusion has not: '{error.args[0]}'."
        ) from error


def _vae(tensors: Mapping[str, StoredTensor], family: Family) -> Component:
    weights = vae_weights(tensors)
    return Component(vae_config(placed_shapes(weights), family), weights)


def _text_encoders(tensors: Mapping[str, StoredTensor], family: Family, file: Path) -> dict[str, Component]:
    encoders = []
    if family in CLIP:
        encoders.append(_clip(stripped(tensors, CLIP[family])))
    if family in OPEN_CLIP:
        encoders.append(_open_clip(stripped(tensors, OPEN_CLIP[family]), UNUSED_SD2_LAYERS if family == "sd2" else 0))
    if None in encoders:
        raise UserError(f"'{file}' holds a UNet without its text encoders. Take the full checkpoint.")
    names = ("text_encoder", "text_encoder_2")
    return {name: encoder for name, encoder in zip(names, encoders) if encoder is not None}


def _clip(tensors: Mapping[str, StoredTensor]) -> Component | None:
    weights: Weights = {
        stored: (Placement(without_text_model_level(name)),)
        for name, stored in tensors.items()
        if stored.is_float and not name.endswith(("position_ids", "logit_scale")) and "text_projection" not in name
    }
    return Component(text_encoder_config(placed_shapes(weights), "quick_gelu"), weights) if weights else None


def _open_clip(tensors: Mapping[str, StoredTensor], unused_layers: int) -> Component | None:
    layers = len({name.split(".")[2] for name in tensors if name.startswith("transformer.resblocks.")})
    weights = open_clip_weights(tensors, layers - unused_layers)
    if unused_layers:  # SD 2.x reads no pooled output
        weights = {stored: places for stored, places in weights.items() if places[0].name != "text_projection.weight"}
    return Component(text_encoder_config(placed_shapes(weights), "gelu"), weights) if weights else None
