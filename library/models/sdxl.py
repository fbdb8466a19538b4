"""Stable Diffusion XL (Podell et al. 2023)."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from library.config.schema.model import ModelConfig
from library.core.registry import MODEL_FAMILIES
from library.data.types import Conditioning
from library.models.assembly import assemble, clip_encoders, open_recognised
from library.models.base import DiffusionModel
from library.models.text import ClipStates
from library.models.tokenizers import CLIP_EOS, OPEN_CLIP_PAD

log = logging.getLogger("dojo")

PENULTIMATE = 2


@MODEL_FAMILIES.register("sdxl")
class StableDiffusionXL:
    """Two text encoders, read at their last but one layer, without the layer norm; sizes and crop as further conditions."""

    @staticmethod
    def load(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> DiffusionModel:
        """
        Raises:
            UserError: the model cannot be found or read, or contradicts the config.
        """
        checkpoint, family = open_recognised(config, dtype)
        if config.clip_skip not in (None, PENULTIMATE):
            log.warning("clip_skip = %s has no effect: SDXL always reads the last but one layer.", config.clip_skip)
        states = {
            "text_encoder": ClipStates(layer=PENULTIMATE, normed=False, pooled=False),
            "text_encoder_2": ClipStates(layer=PENULTIMATE, normed=False, pooled=True),
        }
        prompts = clip_encoders(checkpoint, config, states, [CLIP_EOS, OPEN_CLIP_PAD], dtype, device)
        return assemble(family, checkpoint, config, prompts, size_conditions, dtype, device)


def size_conditions(conditioning: Conditioning, geometry_B6: Tensor) -> dict[str, Tensor]:
    """The pooled text and the six sizes, as diffusers' UNet takes them."""
    pooled_BP = conditioning["pooled"]
    return {"text_embeds": pooled_BP, "time_ids": geometry_B6.to(pooled_BP.device)}
