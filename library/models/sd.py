"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022)."""

from __future__ import annotations

import logging

import torch

from library.config.schema.model import ModelConfig
from library.core.registry import MODEL_FAMILIES
from library.models.assembly import assemble, clip_encoders, open_recognised
from library.models.base import DiffusionModel
from library.models.text import ClipStates
from library.models.tokenizers import CLIP_EOS, OPEN_CLIP_PAD

log = logging.getLogger("dojo")


@MODEL_FAMILIES.register("sd")
class StableDiffusion:
    """One text encoder, whose last hidden state (or the `clip_skip`-th from the end) passes its last layer norm."""

    @staticmethod
    def load(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> DiffusionModel:
        """
        Raises:
            UserError: the model cannot be found or read, or contradicts the config.
        """
        checkpoint, family = open_recognised(config, dtype)
        if family == "sd2" and config.clip_skip not in (None, 1):
            log.warning(
                "SD 2.x was trained on the last layer but one of its text encoder, and its files hold no layer after that: "
                "clip_skip = %s reads one from further inside, which the model does not know. Leave clip_skip out.",
                config.clip_skip,
            )
        states = {"text_encoder": ClipStates(layer=config.clip_skip or 1, normed=True, pooled=False)}
        pad = OPEN_CLIP_PAD if family == "sd2" else CLIP_EOS
        prompts = clip_encoders(checkpoint, config, states, [pad], dtype, device)
        return assemble(family, checkpoint, config, prompts, lambda conditioning, geometry_B6: None, dtype, device)
