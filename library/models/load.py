"""The base model of a run, whatever its family and layout."""

from __future__ import annotations

import torch

from library.config.schema.model import ModelConfig
from library.core.registry import MODEL_FAMILIES
from library.models.assembly import open_checkpoint
from library.models.base import DiffusionModel
from library.models.recognise import REGISTERED, recognise


def load_model(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> DiffusionModel:
    """The model that the config names; its parts load on first use, in `dtype` on `device`.

    A family that the config names is taken at its word when it is not one of the built-in ones; those are recognised.

    Raises:
        UserError: the model cannot be found or read, is of a kind that cannot be trained here, or contradicts the config.
    """
    if config.model_family is None or config.model_family in {*REGISTERED, *REGISTERED.values()}:
        family = REGISTERED[recognise(open_checkpoint(config, dtype))]
    else:
        family = config.model_family
    return MODEL_FAMILIES.get(family).load(config, dtype, device)
