"""The base model of a run, whatever its family and layout."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from library.config.schema.model import ModelConfig
from library.core.errors import UserError
from library.core.memory import is_out_of_memory
from library.core.registry import MODEL_FAMILIES
from library.models.assembly import open_checkpoint
from library.models.base import DiffusionModel
from library.models.recognise import REGISTERED, recognise

log = logging.getLogger("dojo")


def load_model(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> DiffusionModel:
    """The model that the config names; its parts load on first use, in `dtype` on `device`.

    A family that the config names is taken at its word when it is not one of the built-in ones; those are recognised.

    Raises:
        UserError: the model cannot be found or read, is of a kind that cannot be trained here, or contradicts the config.
    """
    if config.model_family is not None and config.model_family not in {*REGISTERED, *REGISTERED.values()}:
        return MODEL_FAMILIES.get(config.model_family).load(config, dtype, device)
    with _nonsense_told(config):
        family = REGISTERED[recognise(open_checkpoint(config, dtype))]
        return MODEL_FAMILIES.get(family).load(config, dtype, device)


@contextmanager
def _nonsense_told(config: ModelConfig) -> Iterator[None]:
    """Within the block names, shapes and settings of files are made sense of; they may be anything."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        log.debug("no sense was made of the model", exc_info=True)
        vae = f" with the vae '{config.vae}'" if config.vae else ""
        raise UserError(
            f"'{config.pretrained_model_name_or_path}'{vae} does not make sense as a Stable Diffusion model "
            f"({type(error).__name__}: {error}). It is damaged or of a kind that is not known here; fetch it again."
        ) from error
