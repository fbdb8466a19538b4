"""Names of modules in LoRA files of every program, brought to one form: host and diffusers' dotted path.

    lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q                  (kohya, SDXL)
    lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q        (kohya with diffusers names)
    unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_q   (diffusers before PEFT)

all are "unet" and `down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from library.lora_files.names.unet_names import SDXL, diffusers_unet_module, original_unet_module

UNDERSCORED = {
    "lora_unet_": "unet",
    "lora_te1_": "te1",
    "lora_te2_": "te2",
    "lora_te_": "te1",
    "lycoris_": "unet",
    "oft_unet_": "unet",
}
"""What a key with underscores begins with -> its host. SimpleTuner writes `lycoris_`, sd-scripts' OFT `oft_unet_`."""

DOTTED = {
    "unet.": "unet",
    "text_encoder.": "te1",
    "text_encoder_2.": "te2",
    "lora_unet.": "unet",
    "lora_te1.": "te1",
    "lora_te2.": "te2",
    "lora_te.": "te1",
    "clip_l.": "te1",
    "clip_h.": "te1",
    "clip_g.": "te2",
}
"""The same for names with dots: diffusers' hosts, and OneTrainer's."""

PEFT_ROOT = "base_model.model."

ORIGINAL_ROOTS = frozenset({"input_blocks", "middle_block", "output_blocks", "time_embed", "label_emb", "out"})
UNET_ROOTS = ORIGINAL_ROOTS | {
    "down_blocks",
    "mid_block",
    "up_blocks",
    "conv_in",
    "conv_out",
    "time_embedding",
    "add_embedding",
}
ENCODER_ROOTS = frozenset({"text_model", "encoder", "embeddings", "text_projection", "final_layer_norm"})

_UNDERSCORED_WORD = re.compile(
    r"""(?:(?<=_)|^)(?:
        (?:down|up|input|output|transformer)_blocks | mid_block | middle_block
        | proj_in | proj_out | to_q | to_k | to_v | to_out | conv_in | conv_out | conv_norm_out | conv_shortcut
        | time_emb_proj | time_embedding | add_embedding | linear_1 | linear_2
        | in_layers | emb_layers | out_layers | skip_connection | time_embed | label_emb
        | text_model | text_projection | self_attn | q_proj | k_proj | v_proj | out_proj
        | layer_norm1 | layer_norm2 | final_layer_norm | token_embedding | position_embedding
    )(?=_|$)""",
    re.VERBOSE,
)

_ENCODER_PROJECTIONS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
"""diffusers before PEFT named a text encoder's projections after the UNet's."""


@dataclass(frozen=True)
class ModuleName:
    """A module of a model of the SD families."""

    host: str
    """"unet", "te1" or "te2"."""
    path: str
    """diffusers' path; of text encoders from `text_model` or `text_projection` on."""
    original: bool = False
    """The file has the UNet's module under the name of the original Stable Diffusion repositories."""


def dotted(key: str) -> str:
    """`down_blocks_0_attn1_to_q` as `down_blocks.0.attn1.to_q`; words that hold an underscore themselves keep it."""
    protected = _UNDERSCORED_WORD.sub(lambda word: word[0].replace("_", "\0"), key)
    return protected.replace("_", ".").replace("\0", "_")


def of_key(key: str) -> ModuleName | None:
    """The module of a key with underscores, such as `lora_unet_mid_block_attentions_0_proj_in`; None where it is none."""
    for prefix, host in UNDERSCORED.items():
        if key.startswith(prefix):
            return _in_host(host, dotted(key.removeprefix(prefix)))
    return None


def of_path(path: str) -> ModuleName | None:
    """The module of a name with dots, such as `unet.mid_block.attentions.0.proj_in`; None where it is none."""
    path = path.replace(".processor.", ".")
    for prefix, host in DOTTED.items():
        if path.startswith(prefix):
            return _in_host(host, path.removeprefix(prefix).removeprefix(PEFT_ROOT))
    path = path.removeprefix(PEFT_ROOT)
    root = path.partition(".")[0]
    host = "unet" if root in UNET_ROOTS else "te1" if root in ENCODER_ROOTS else ""
    return _in_host(host, path) if host else None


def kohya_path(module: ModuleName, family: str) -> str:
    """The dotted name that sd-scripts' key is made of: SDXL's UNet has the original names.

    Raises:
        KeyError: SDXL's UNet has no such module.
    """
    return original_unet_module(module.path, SDXL) if family == "sdxl" and module.host == "unet" else module.path


def _in_host(host: str, path: str) -> ModuleName | None:
    root = path.partition(".")[0]
    if host == "unet":
        if root not in UNET_ROOTS:
            return None
        path = f"{path}.0" if path.endswith(".to_out") else path
        if root not in ORIGINAL_ROOTS:
            return ModuleName(host, path)
        try:
            return ModuleName(host, diffusers_unet_module(path), original=True)
        except (KeyError, ValueError):
            return None
    if root not in ENCODER_ROOTS:
        return None
    head, _, last = path.rpartition(".")
    if last in _ENCODER_PROJECTIONS and head.endswith("self_attn"):
        path = f"{head}.{_ENCODER_PROJECTIONS[last]}"
    # transformers 5 dropped this level, and PEFT saves modules under the path that they have today
    return ModuleName(host, path if root in ("text_model", "text_projection") else f"text_model.{path}")
