"""The settings of the published models, and of tiny relatives for tests, by family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from library.models.architecture import LATENT_SCALE, SDXL_SIZE_EMBEDDING, Family
from library.models.noise_schedule import STABLE_DIFFUSION

VOCABULARY = 49408
WINDOW = 77


@dataclass(frozen=True)
class Recipe:
    """Everything that the modules of a model are built from."""

    family: Family
    unet: dict[str, Any]
    vae: dict[str, Any]
    text_encoders: tuple[dict[str, Any], ...]
    scheduler: dict[str, Any]


def recipe(name: str, tiny: bool = False) -> Recipe:
    """`sd15`, `sd2`, `sd2_v` or `sdxl`, full-size or tiny.

    Raises:
        KeyError: another name.
    """
    family: Family = {"sd15": "sd1", "sd2": "sd2", "sd2_v": "sd2", "sdxl": "sdxl"}[name]  # type: ignore[assignment]
    sizes = _TINY if tiny else _FULL
    return Recipe(
        family=family,
        unet=_unet(
            family, sizes[f"{family}_unet"], sample_size=16 if tiny else {"sd2_v": 96, "sdxl": 128}.get(name, 64)
        ),
        vae=_vae(family, sizes["vae"], 64 if tiny else 512),
        text_encoders=tuple(_text_encoder(*settings) for settings in sizes[f"{family}_text"]),
        scheduler=_scheduler("v_prediction" if name == "sd2_v" else "epsilon"),
    )


# UNet: channels, transformer layers of each level, width of the text; text encoders: width, layers, activation, projection.
_FULL: dict[str, Any] = {
    "sd1_unet": ((320, 640, 1280, 1280), (1, 1, 1, 0), 768),
    "sd2_unet": ((320, 640, 1280, 1280), (1, 1, 1, 0), 1024),
    "sdxl_unet": ((320, 640, 1280), (0, 2, 10), 2048),
    "sd1_text": ((768, 12, "quick_gelu", 768),),
    "sd2_text": ((1024, 23, "gelu", 512),),
    "sdxl_text": ((768, 12, "quick_gelu", 768), (1280, 32, "gelu", 1280)),
    "vae": (128, 256, 512, 512),
}
_TINY: dict[str, Any] = {
    "sd1_unet": ((32, 64), (1, 0), 64),
    "sd2_unet": ((64, 128), (1, 0), 64),
    "sdxl_unet": ((64, 128), (0, 2), 192),
    "sd1_text": ((64, 3, "quick_gelu", 64),),
    "sd2_text": ((64, 3, "gelu", 64),),
    "sdxl_text": ((64, 3, "quick_gelu", 64), (128, 3, "gelu", 128)),
    "vae": (32, 32, 64),
}


def _unet(family: Family, sizes: tuple, sample_size: int) -> dict[str, Any]:
    channels, depths, text_width = sizes
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    settings = {
        "sample_size": sample_size,
        "block_out_channels": list(channels),
        "down_block_types": down,
        "up_block_types": [kind.replace("Down", "Up") for kind in reversed(down)],
        "transformer_layers_per_block": [depth or 1 for depth in depths],
        "cross_attention_dim": text_width,
        "attention_head_dim": 8 if family == "sd1" else [width // 64 for width in channels],
        "use_linear_projection": family != "sd1",
    }
    if family != "sdxl":
        return settings
    pooled_width = 1280 if text_width == 2048 else 128
    return settings | {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": SDXL_SIZE_EMBEDDING,
        "projection_class_embeddings_input_dim": pooled_width + 6 * SDXL_SIZE_EMBEDDING,
    }


def _vae(family: Family, channels: tuple[int, ...], sample_size: int) -> dict[str, Any]:
    return {
        "block_out_channels": list(channels),
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": sample_size,
        "scaling_factor": LATENT_SCALE[family],
    }


def _text_encoder(width: int, layers: int, activation: str, projection: int) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "max_position_embeddings": WINDOW,
        "projection_dim": projection,
        "hidden_act": activation,
        "bos_token_id": VOCABULARY - 2,
        "eos_token_id": VOCABULARY - 1,
        "pad_token_id": VOCABULARY - 1,
    }


def _scheduler(prediction: str) -> dict[str, Any]:
    return STABLE_DIFFUSION | {
        "_class_name": "DDIMScheduler",
        "prediction_type": prediction,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
