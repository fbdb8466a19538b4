"""Parts of a model that load when they are first used, and can be released."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from library.core.errors import UserError
from library.core.memory import give_back_memory, is_out_of_memory, needing_memory
from library.kernels.convolution import freeze_convolutions
from library.models.checkpoint import Component
from library.models.offload import swap_blocks
from library.models.original_names import without_text_model_level
from library.models.plain_attention import use_plain_attention
from library.models.quantised import PACKINGS
from library.models.weights import fill

log = logging.getLogger("dojo")

Module = TypeVar("Module", bound=nn.Module)

SMALLER = (
    'mixed_precision = "bf16" halves an fp32 model, quantize_base = "int8" halves the UNet again, and blocks_to_swap leaves '
    "blocks of it in the CPU's memory. cache_latents, and cache_text_encoder_outputs with network_train_unet_only, spare the "
    "encoders while the UNet is there."
)
"""Settings by which a model takes less memory."""


class LazyModule(Generic[Module]):
    """A module that is loaded on the first call and again after `release`.

    Args:
        load: reads the module from disk, frozen and in eval mode.
    """

    def __init__(self, load: Callable[[], Module]) -> None:
        self._load = load
        self._module: Module | None = None
        self._prepare: list[Callable[[Module], object]] = []

    def __call__(self) -> Module:
        if self._module is None:
            with needing_memory("while a part of the model was loaded", SMALLER):
                module = self._load()
                for prepare in self._prepare:
                    prepare(module)
            self._module = module
        return self._module

    def prepare(self, change: Callable[[Module], object]) -> None:
        """Apply `change` to the module now, if it is loaded, and whenever it loads again."""
        self._prepare.append(change)
        if self._module is not None:
            change(self._module)

    def release(self) -> None:
        """Drop the module; its memory is free once nobody else holds it."""
        if self._module is None:
            return
        self._module = None
        give_back_memory()


def load_unet(
    component: Component,
    dtype: torch.dtype,
    device: torch.device,
    attention: str,
    quantised: str,
    blocks_to_swap: int | None,
) -> nn.Module:
    """diffusers' UNet2DConditionModel with its weights.

    Args:
        quantised: "none", or how the weights are packed.
        blocks_to_swap: transformer blocks whose weights wait on the CPU.

    Raises:
        UserError: the weights do not fit, xformers is asked for and cannot be used, or there are not so many blocks.
    """
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    if attention == "xformers":
        check_xformers(device)
    unet = fill(
        _without_memory(component, lambda: UNet2DConditionModel.from_config(dict(component.config))),
        component.weights,
        dtype,
        device,
        packing=PACKINGS.get(quantised),
        home=torch.device("cpu") if blocks_to_swap else None,
        memory_format=torch.channels_last,
    )
    freeze_convolutions(unet)
    if blocks_to_swap:
        swap_blocks(unet, blocks_to_swap, device)
    if attention == "xformers":
        unet.enable_xformers_memory_efficient_attention()
    else:
        use_plain_attention(unet, compiles=attention == "auto")
    return unet


def load_vae(component: Component, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """diffusers' AutoencoderKL with its weights."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    empty = _without_memory(component, lambda: AutoencoderKL.from_config(dict(component.config)))
    return fill(empty, component.weights, dtype, device)


def load_text_encoder(
    component: Component, projected: bool, dtype: torch.dtype, device: torch.device, quantised: str
) -> nn.Module:
    """transformers' CLIPTextModel, or the one with a projection, with its weights.

    Args:
        quantised: "none", or how the weights are packed.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    architecture: Any = CLIPTextModelWithProjection if projected else CLIPTextModel
    settings = {**component.config, "attention_dropout": 0.0}
    return fill(
        _without_memory(component, lambda: architecture(CLIPTextConfig(**settings))),
        component.weights,
        dtype,
        device,
        without_text_model_level,
        PACKINGS.get(quantised),
    )


def check_xformers(device: torch.device) -> None:
    """
    Raises:
        UserError: xformers is not installed, or there is no GPU for it.
    """
    from importlib.util import find_spec

    if find_spec("xformers") is None:
        raise UserError(
            "attention = 'xformers', but the package xformers is not installed here. Run `pip install xformers`, or leave "
            "the setting out: PyTorch's own attention (sdpa) is as fast on most cards."
        )
    if device.type != "cuda":
        raise UserError(
            f"attention = 'xformers' needs a CUDA GPU; this run is on '{device.type}'. Leave the setting out."
        )


def _without_memory(component: Component, build: Callable[[], Module]) -> Module:
    """A module whose parameters have shapes and no storage.

    Raises:
        UserError: the component's settings are not those of such a module.
    """
    from accelerate import init_empty_weights

    try:
        with init_empty_weights(include_buffers=False):
            return build()
    except Exception as error:  # whatever the libraries say of settings that a file may give
        if is_out_of_memory(error):
            raise
        log.debug("no module was built", exc_info=True)
        file = next((stored.file for stored in component.weights), "the model")
        raise UserError(
            f"no module can be built with the settings that belong to '{file}' ({type(error).__name__}: {error}). "
            "The model is damaged, or of a kind that is not known here; fetch it again."
        ) from error
