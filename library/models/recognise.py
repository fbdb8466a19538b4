"""Which family a model belongs to, from its weights; what is not a Stable Diffusion model is named and refused."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from library.config.schema.model import ModelConfig
from library.core.errors import UserError, raise_all
from library.models.architecture import Family, Shapes, has_linear_projection
from library.models.checkpoint import Checkpoint
from library.models.weights import placed_shapes

Prediction = Literal["eps", "v"]

FAMILY_NAMES: dict[Family, str] = {"sd1": "SD 1.x", "sd2": "SD 2.x", "sdxl": "SDXL"}
REGISTERED: dict[Family, str] = {"sd1": "sd", "sd2": "sd", "sdxl": "sdxl"}

# What a name in a file gives away, in the order in which the signs are looked for.
_FOREIGN = {
    "a LoRA or another adapter, not a base model": (
        ".lora_down.", ".lora_up.", ".lora.down.", ".lora.up.", ".lora_A.", ".lora_B.", "lora_unet_", "lora_te", ".hada_w1_a", ".lokr_w1",
    ),
    "a ControlNet": ("control_model.", "controlnet_cond_embedding", "zero_convs."),
    "a Flux model": ("double_blocks.", "single_transformer_blocks."),
    "a Stable Diffusion 3 model": ("joint_blocks.",),
    "a diffusion transformer of another family": (
        "transformer_blocks.0.attn.to_q", "blocks.0.self_attn.", "layers.0.attention.", "blocks.0.attn.qkv", "caption_projection.",
    ),
    "a Stable Cascade model": ("clf.1.weight", "effnet_mapper."),
    "only a VAE": ("encoder.down", "decoder.up"),
    "a UNet without text encoders, in the diffusers layout": ("down_blocks.0.",),
    "a textual inversion embedding": ("emb_params", "clip_l", "clip_g", "string_to_param"),
}  # fmt: skip

_REFINER = "'{}' is an SDXL refiner. Train on the base model."


def refuse_foreign(file: Path, keys: Iterable[str]) -> None:
    """Say what a single file is, when it is no Stable Diffusion checkpoint in the original layout.

    Raises:
        UserError: always.
    """
    names = list(keys)
    kind = next(
        (kind for kind, signs in _FOREIGN.items() if any(sign in name for name in names for sign in signs)), None
    )
    found = f"seems to be {kind}" if kind else "is of a kind that is not known here"
    raise UserError(
        f"'{file}' {found} (its first tensor is '{names[0] if names else 'none'}'). What is needed is a full checkpoint of "
        "SD 1.x, SD 2.x or SDXL in the original layout, with UNet and text encoders."
    )


def refuse_relatives(file: Path, keys: Iterable[str]) -> None:
    """Say what is special about a checkpoint that has a known UNet but cannot be trained here.

    Raises:
        UserError: an SDXL refiner, or a model with the noise process of Karras et al. 2022.
    """
    names = set(keys)
    if "conditioner.embedders.0.model.ln_final.weight" in names:
        raise UserError(_REFINER.format(file))
    if names & {"edm_mean", "edm_vpred.sigma_max"}:
        raise UserError(
            f"'{file}' was trained with the noise process EDM (Playground, CosXL), which is not known here."
        )


def family_of_unet(shapes: Shapes, path: Path) -> Family:
    """The family of a UNet with these parameters, in diffusers' names.

    Raises:
        UserError: a relative of these models that cannot be trained here.
    """
    channels = shapes["conv_in.weight"][1]
    if channels != shapes["conv_out.weight"][0]:
        kind = {9: "inpainting", 5: "depth-to-image", 7: "upscaling", 8: "instruction-editing"}.get(
            channels, "conditional"
        )
        raise UserError(
            f"'{path}' is an {kind} model".replace("an depth", "a depth").replace("an cond", "a cond")
            + f": its UNet takes {channels} channels. A LoRA is trained on the plain text-to-image model, and works with both."
        )
    if any(name.startswith("class_embedding.") for name in shapes):
        raise UserError(
            f"'{path}' is conditioned on classes or pictures (unCLIP or an upscaler), which cannot be trained here."
        )
    if any(name.startswith("add_embedding.") for name in shapes):
        return "sdxl"
    return "sd2" if has_linear_projection(shapes) else "sd1"


def recognise(checkpoint: Checkpoint) -> Family:
    """The family of a whole model.

    Raises:
        UserError: a relative of these families that cannot be trained here.
    """
    family = family_of_unet(placed_shapes(checkpoint.component("unet").weights), checkpoint.path)
    if family == "sdxl" and "text_encoder" not in checkpoint.components:
        raise UserError(_REFINER.format(checkpoint.path))
    return family


def check_config(family: Family, checkpoint: Checkpoint, config: ModelConfig) -> None:
    """Compare what the config says of the model with what its files say.

    Raises:
        UserError: they contradict each other; every contradiction is named.
    """
    raise_all([*_family_contradictions(family, config), *_prediction_contradictions(checkpoint, config)])


def prediction_of(checkpoint: Checkpoint, config: ModelConfig) -> Prediction:
    """What the UNet predicts: as its files say, else as the config says, else the noise."""
    if checkpoint.prediction is not None:
        return "v" if checkpoint.prediction == "v" else "eps"
    return "v" if config.v_parameterization else "eps"


def _family_contradictions(family: Family, config: ModelConfig) -> Iterable[str]:
    name = FAMILY_NAMES[family]
    if config.model_family not in (None, family, REGISTERED[family]):
        yield f"model_family = '{config.model_family}', but the weights are those of {name}. Leave it out, or write '{family}'."
    if config.v2 and family != "sd2":
        yield f"v2 = true, but the weights are those of {name}. Leave v2 out."
    if config.v2 is False and family == "sd2":
        yield f"v2 = false, but the weights are those of {name}. Leave v2 out."


def _prediction_contradictions(checkpoint: Checkpoint, config: ModelConfig) -> Iterable[str]:
    if config.v_parameterization is None or checkpoint.prediction is None:
        return
    if config.v_parameterization != (checkpoint.prediction == "v"):
        says = "v" if checkpoint.prediction == "v" else "the noise (eps)"
        yield (
            f"v_parameterization = {str(config.v_parameterization).lower()}, but the model '{checkpoint.path}' says that it "
            f"predicts {says}. Leave v_parameterization out."
        )
