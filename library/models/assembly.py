"""From a checkpoint and the config to a model: what all families have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from library.config.schema.model import ModelConfig
from library.models.architecture import Family, native_resolution
from library.models.base import LatentSpec
from library.models.checkpoint import Checkpoint, Component, read_component, read_folder
from library.models.description import model_entries, vae_entries
from library.models.image_coding import ImageCoder, stride
from library.models.latent_diffusion import AddedConditions, LatentDiffusion
from library.models.location import locate
from library.models.noise_schedule import noise_process
from library.models.parts import LazyModule, load_unet
from library.models.prompt_encoding import ClipEncoder, PromptEncoder, tokenizer_source
from library.models.recognise import check_config, prediction_of, recognise
from library.models.single_file import read_single_file, read_vae_file
from library.models.text import ClipStates

CHUNK = 75


def open_checkpoint(config: ModelConfig, dtype: torch.dtype) -> Checkpoint:
    """The base model's files, with no weight read.

    Raises:
        UserError: not found, unreadable, or no model that can be trained here.
    """
    prefer_half = dtype != torch.float32
    path = locate(config.pretrained_model_name_or_path, "pretrained_model_name_or_path", prefer_half)
    return read_folder(path, prefer_half) if path.is_dir() else read_single_file(path)


def open_recognised(config: ModelConfig, dtype: torch.dtype) -> tuple[Checkpoint, Family]:
    """The base model's files and the family that they belong to, which the config does not contradict.

    Raises:
        UserError: as `open_checkpoint`, or the config says otherwise.
    """
    checkpoint = open_checkpoint(config, dtype)
    family = recognise(checkpoint)
    check_config(family, checkpoint, config)
    return checkpoint, family


def clip_encoders(
    checkpoint: Checkpoint,
    config: ModelConfig,
    states: Mapping[str, ClipStates],
    pads: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
) -> PromptEncoder:
    """The model's text encoders.

    Args:
        states: what is taken from each, by component name, in the order of te1, te2.
        pads: padding token of each where the model brings no tokenizer.
    """
    encoders = [
        ClipEncoder(
            checkpoint.component(name),
            tokenizer_source(checkpoint, name, config.tokenizer, pad),
            taken,
            dtype,
            device,
            config.quantize_text_encoders,
        )
        for (name, taken), pad in zip(states.items(), pads)
    ]
    return PromptEncoder(encoders, (config.max_token_length or CHUNK) // CHUNK, config.weighted_captions, dtype, device)


def assemble(
    family: Family,
    checkpoint: Checkpoint,
    config: ModelConfig,
    prompts: PromptEncoder,
    added_conditions: AddedConditions,
    dtype: torch.dtype,
    device: torch.device,
) -> LatentDiffusion:
    """The model from its parts; nothing is loaded yet."""
    unet, vae = checkpoint.component("unet"), vae_component(checkpoint, config, family, dtype)
    prediction = prediction_of(checkpoint, config)
    zero_snr = config.zero_terminal_snr or checkpoint.zero_terminal_snr
    return LatentDiffusion(
        family=family,
        latents=latent_spec(family, unet, vae, prediction),
        process=noise_process(checkpoint.scheduler, prediction, zero_snr, device),
        unet=LazyModule(
            lambda: load_unet(unet, dtype, device, config.attention, config.quantize_base, config.blocks_to_swap)
        ),
        unet_component=unet,
        images=ImageCoder(vae, torch.float32 if config.no_half_vae else dtype, device),
        prompts=prompts,
        added_conditions=added_conditions,
        describe=lambda: (
            model_entries(config.pretrained_model_name_or_path, family, prediction) | vae_entries(config.vae)
        ),
        dtype=dtype,
    )


def vae_component(checkpoint: Checkpoint, config: ModelConfig, family: Family, dtype: torch.dtype) -> Component:
    """The model's own VAE, or the one that the config names: a folder, a whole model's folder, or a file.

    Raises:
        UserError: there is none.
    """
    if config.vae is None:
        return checkpoint.component("vae")
    path = locate(config.vae, "vae", dtype != torch.float32)
    if path.is_file():
        return read_vae_file(path, family)
    inner = path / "vae"
    return read_component(inner if inner.is_dir() else path, dtype != torch.float32)


def latent_spec(family: Family, unet: Component, vae: Component, prediction: str) -> LatentSpec:
    """The latents' space; a folder says the native size, a single file is taken for the published one."""
    side, pixels = unet.config.get("sample_size"), stride(vae)
    native = side * pixels if isinstance(side, int) else native_resolution(family, prediction)
    return LatentSpec(channels=unet.config["in_channels"], stride=pixels, native_resolution=native)
