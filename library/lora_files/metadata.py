"""What a LoRA file says of itself: sd-scripts' `ss_*` entries and Stability's `modelspec.*` (version 1.0.1).

Every value is a string, nested ones as JSON; what is unset reads "None", as sd-scripts writes it.
"""

from __future__ import annotations

import base64
import json
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from library.config.schema import Config, NoiseConfig
from library.core.errors import UserError

NEEDED_TO_LOAD = (
    "ss_v2",
    "ss_base_model_version",
    "ss_network_module",
    "ss_network_dim",
    "ss_network_alpha",
    "ss_network_args",
    "modelspec.sai_model_spec",
    "modelspec.architecture",
    "modelspec.implementation",
)
"""What `no_metadata` leaves."""

GENERATIVE_MODELS = "https://github.com/Stability-AI/generative-models"

SETTINGS = {
    "training": ("gradient_checkpointing", "gradient_accumulation_steps", "mixed_precision", "max_grad_norm"),
    "optimizer": ("learning_rate", "unet_lr", "text_encoder_lr"),
    "schedule": ("lr_scheduler",),
    "model": ("clip_skip", "max_token_length", "zero_terminal_snr"),
    "network": ("scale_weight_norms",),
    "noise": (
        "noise_offset",
        "noise_offset_random_strength",
        "multires_noise_iterations",
        "multires_noise_discount",
        "adaptive_noise_scale",
        "ip_noise_gamma",
        "ip_noise_gamma_random_strength",
    ),
    "loss": ("loss_type", "huber_schedule", "huber_scale", "huber_c", "min_snr_gamma", "prior_loss_weight"),
    "captions": (
        "shuffle_caption",
        "keep_tokens",
        "caption_dropout_rate",
        "caption_dropout_every_n_epochs",
        "caption_tag_dropout_rate",
    ),
    "images": ("color_aug", "flip_aug", "random_crop", "resize_interpolation"),
    "buckets": (
        "enable_bucket",
        "bucket_no_upscale",
        "min_bucket_reso",
        "max_bucket_reso",
        "validation_split",
        "validation_seed",
    ),
    "data": ("cache_latents",),
    "validation": ("max_validation_steps", "validate_every_n_epochs", "validate_every_n_steps"),
    "saving": ("output_name", "training_comment"),
}
"""Options that stand in the metadata under `ss_` and their own name, by group of the configuration."""

NEVER = {"ss_full_fp16": False, "ss_lowram": False}
"""Options of sd-scripts that are never on here."""


@dataclass(frozen=True)
class RunFacts:
    """What neither the configuration nor the model, the data or the network knows of a run."""

    family: str
    """"sd1", "sd2" or "sdxl"."""
    predicts_v: bool
    seed: int
    session_id: int
    started_at: float
    """Seconds since 1970."""
    finished_at: float
    """When this file was made, in seconds since 1970."""
    steps: int
    epoch: int
    max_train_steps: int
    num_epochs: int
    num_batches_per_epoch: int
    total_batch_size: int
    """Samples in one optimizer update, over all processes and accumulation."""


def lora_metadata(
    config: Config, run: RunFacts, base: Mapping[str, str], network: Mapping[str, str], data: Mapping[str, Any]
) -> dict[str, str]:
    """The metadata of a LoRA file, all but the hashes that `with_hashes` adds.

    Args:
        base: `ss_*` entries of the base model.
        network: `ss_*` entries of the network.
        data: `ss_*` entries of the data, ready for JSON.
    """
    entries = {
        **{key: as_text(value) for key, value in training_entries(config, run).items()},
        **{key: as_text(value) for key, value in data.items() if value is not None},
        **base,
        **network,
        **modelspec(config, run),
    }
    if config.saving.no_metadata:
        return {key: entries[key] for key in NEEDED_TO_LOAD if key in entries}
    return entries


def training_entries(config: Config, run: RunFacts) -> dict[str, Any]:
    """`ss_*` entries on how the run trained."""
    settings = {
        f"ss_{name}": getattr(getattr(config, group), name) for group, names in SETTINGS.items() for name in names
    }
    arguments = ",".join(f"{name}={value}" for name, value in config.optimizer.optimizer_args.items())
    face_crop, warmup = config.images.face_crop_aug_range, config.schedule.lr_warmup_steps
    return {
        **settings,
        "ss_session_id": run.session_id,
        "ss_training_started_at": run.started_at,
        "ss_training_finished_at": run.finished_at,
        "ss_seed": run.seed,
        "ss_steps": run.steps,
        "ss_epoch": run.epoch,
        "ss_max_train_steps": run.max_train_steps,
        "ss_num_epochs": run.num_epochs,
        "ss_num_batches_per_epoch": run.num_batches_per_epoch,
        "ss_batch_size_per_device": config.buckets.train_batch_size,
        "ss_total_batch_size": run.total_batch_size,
        "ss_resolution": tuple(config.buckets.resolution),
        "ss_face_crop_aug_range": face_crop and tuple(face_crop),
        "ss_lr_warmup_steps": int(warmup) if warmup.is_integer() else warmup,
        "ss_optimizer": config.optimizer.optimizer_type + (f"({arguments})" if arguments else ""),
        "ss_debiased_estimation": config.loss.debiased_estimation_loss,
        "ss_fp8_base": config.model.quantize_base == "fp8",
        "ss_fp8_base_unet": config.model.quantize_base == "fp8" and config.model.quantize_text_encoders == "none",
        **NEVER,
    }


def modelspec(config: Config, run: RunFacts) -> dict[str, str]:
    """`modelspec.*` entries; those without a value are left out."""
    saving = config.saving
    triggers = saving.metadata_trigger_phrase or config.data.trigger_word
    entries = {
        "sai_model_spec": "1.0.1",
        "architecture": architecture(run.family, run.predicts_v),
        "implementation": GENERATIVE_MODELS if run.family == "sdxl" else "diffusers",
        "title": saving.metadata_title or saving.output_name,
        "resolution": "x".join(map(str, config.buckets.resolution)),
        "date": datetime.fromtimestamp(int(run.finished_at)).isoformat(),
        "prediction_type": "v" if run.predicts_v else "epsilon",
        "author": saving.metadata_author,
        "description": saving.metadata_description,
        "license": saving.metadata_license,
        "tags": saving.metadata_tags,
        "trigger_phrase": triggers,
        "usage_hint": saving.metadata_usage_hint or (f"Write {triggers} in the prompt." if triggers else None),
        "thumbnail": as_data_url(saving.metadata_thumbnail) if saving.metadata_thumbnail else None,
        "merged_from": saving.metadata_merged_from,
        "preprocessor": saving.metadata_preprocessor,
        "is_negative_embedding": saving.metadata_is_negative_embedding,
        "timestep_range": timestep_range(config.noise),
        "encoder_layer": None if config.model.clip_skip is None else str(config.model.clip_skip),
    }
    return {f"modelspec.{name}": value for name, value in entries.items() if value}


def as_data_url(picture: str) -> str:
    """A picture's file as a data URL; one that is a data URL already stays as it is.

    Raises:
        UserError: the file cannot be read.
    """
    if picture.startswith("data:"):
        return picture
    kind = mimetypes.guess_type(picture)[0] or "application/octet-stream"
    try:
        content = Path(picture).expanduser().read_bytes()
    except OSError as error:
        raise UserError(f'metadata_thumbnail = "{picture}": cannot be read: {error.strerror}.') from error
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def timestep_range(noise: NoiseConfig) -> str | None:
    """The first timestep that is trained and the one after the last, such as "0,500"; None where all are."""
    if noise.min_timestep is None and noise.max_timestep is None:
        return None
    return f"{noise.min_timestep or 0},{1000 if noise.max_timestep is None else noise.max_timestep}"


def architecture(family: str, predicts_v: bool) -> str:
    """`modelspec.architecture`, such as "stable-diffusion-v1/lora"."""
    known = {
        "sd1": "stable-diffusion-v1",
        "sd2": "stable-diffusion-v2-768-v" if predicts_v else "stable-diffusion-v2-512",
        "sdxl": "stable-diffusion-xl-v1-base",
    }
    return f"{known.get(family, family)}/lora"


def base_version(family: str, predicts_v: bool) -> str:
    """`ss_base_model_version`; readers tell SDXL by its beginning `sdxl_`."""
    if family == "sdxl":
        return "sdxl_base_v1-0"
    return {"sd1": "sd_v1", "sd2": "sd_v2"}.get(family, family) + ("_v" if predicts_v else "")


def as_text(value: Any) -> str:
    """Text as it is, tables and lists as JSON, anything else as Python writes it."""
    return json.dumps(value) if isinstance(value, dict | list) else str(value)
