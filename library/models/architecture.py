"""The settings of a model's parts, read off the shapes of their weights.

What the weights cannot say (attention heads, activations, the latents' scale) is the convention of the family.
Names are those of diffusers and transformers (CLIP's without `text_model.`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

Family = Literal["sd1", "sd2", "sdxl"]
Shapes = Mapping[str, tuple[int, ...]]

SD1_HEADS = 8
HEAD_WIDTH = 64
SDXL_SIZE_EMBEDDING = 256
LATENT_SCALE = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}


def native_resolution(family: Family, prediction: str | None) -> int:
    """Side in pixels of the pictures that the published model of the family was made for."""
    if family == "sdxl":
        return 1024
    return 768 if family == "sd2" and prediction == "v" else 512


def unet_config(shapes: Shapes, family: Family) -> dict[str, Any]:
    """Settings for diffusers' UNet2DConditionModel."""
    levels = _count(shapes, r"down_blocks\.(\d+)\.")
    channels = [shapes[f"down_blocks.{level}.resnets.0.conv1.weight"][0] for level in range(levels)]
    depths = [
        _count(shapes, rf"down_blocks\.{level}\.attentions\.0\.transformer_blocks\.(\d+)\.") for level in range(levels)
    ]
    middle = _count(shapes, r"mid_block\.attentions\.0\.transformer_blocks\.(\d+)\.")
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    config = {
        "in_channels": shapes["conv_in.weight"][1],
        "out_channels": shapes["conv_out.weight"][0],
        "block_out_channels": channels,
        "layers_per_block": _count(shapes, r"down_blocks\.0\.resnets\.(\d+)\."),
        "down_block_types": down,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": [name.replace("Down", "Up") for name in reversed(down)],
        "transformer_layers_per_block": [depth or 1 for depth in depths[:-1]] + [depths[-1] or middle],
        "cross_attention_dim": _cross_attention_width(shapes),
        "use_linear_projection": has_linear_projection(shapes),
        "attention_head_dim": SD1_HEADS if family == "sd1" else [width // HEAD_WIDTH for width in channels],
    }
    return config | (_sdxl_embedding(shapes) if family == "sdxl" else {})


def vae_config(shapes: Shapes, family: Family) -> dict[str, Any]:
    """Settings for diffusers' AutoencoderKL."""
    levels = _count(shapes, r"encoder\.down_blocks\.(\d+)\.")
    return {
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": [
            shapes[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"][0] for level in range(levels)
        ],
        "layers_per_block": _count(shapes, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "scaling_factor": LATENT_SCALE[family],
    }


def text_encoder_config(shapes: Shapes, activation: Literal["quick_gelu", "gelu"]) -> dict[str, Any]:
    """Settings for transformers' CLIPTextModel. OpenAI's CLIP was trained with `quick_gelu`, OpenCLIP with `gelu`."""
    vocabulary, width = shapes["embeddings.token_embedding.weight"]
    projection = shapes.get("text_projection.weight", (width, width))
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes["encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": _count(shapes, r"encoder\.layers\.(\d+)\."),
        "num_attention_heads": width // HEAD_WIDTH,
        "max_position_embeddings": shapes["embeddings.position_embedding.weight"][0],
        "projection_dim": projection[0],
        "hidden_act": activation,
    }


def has_linear_projection(unet_shapes: Shapes) -> bool:
    """SD 2.x and SDXL enter their transformers through matrices, SD 1.x through 1x1 convolutions."""
    return any(name.endswith(".proj_in.weight") and len(shape) == 2 for name, shape in unet_shapes.items())


def _cross_attention_width(shapes: Shapes) -> int:
    return next(shape[1] for name, shape in shapes.items() if name.endswith(".attn2.to_k.weight"))


def _sdxl_embedding(shapes: Shapes) -> dict[str, Any]:
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": SDXL_SIZE_EMBEDDING,
        "projection_class_embeddings_input_dim": shapes["add_embedding.linear_1.weight"][1],
    }


def _count(shapes: Shapes, numbered: str) -> int:
    """How many items a numbered list in the names has; one name with a high number does not make it long."""
    pattern = re.compile(numbered)
    return len({int(found[1]) for found in map(pattern.match, shapes) if found})
