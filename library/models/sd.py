"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022)."""

from __future__ import annotations

import torch

from library.config.schema.model import ModelConfig
from library.core.registry import MODEL_FAMILIES
from library.models.assembly import assemble, clip_encoders, open_recognised
from library.models.base import DiffusionModel
from library.models.text import ClipStates
from library.models.tokenizers import CLIP_EOS, OPEN_CLIP_PAD


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
        states = {"text_encoder": ClipStates(layer=config.clip_skip or 1, normed=True, pooled=False)}
        pad = OPEN_CLIP_PAD if family == "sd2" else CLIP_EOS
        prompts = clip_encoders(checkpoint, config, states, [pad], dtype, device)
        return assemble(family, checkpoint, config, prompts, lambda conditioning, geometry_B6: None, dtype, device)
