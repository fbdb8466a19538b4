"""What a resumed run may do otherwise than the one it continues."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from library.config.catalog import catalog
from library.core.errors import UserError
from library.training.state.checkpoint import Position

FIXED = (
    "network_module", "network_dim", "network_alpha", "network_args", "network_layers", "network_train_unet_only",
    "network_train_text_encoder_only", "optimizer_type",
)  # fmt: skip
"""Settings that a resumed run cannot change: the saved tensors belong to them."""

FREE_GROUPS = ("saving", "sampling", "logging", "config")
"""Groups of settings that do not touch what is trained."""

FREE = (
    "max_train_steps", "max_train_epochs", "max_train_time", "validate_every_n_steps", "validate_every_n_epochs", "validation_timesteps",
    "max_validation_steps", "cache_latents", "cache_latents_to_disk", "vae_batch_size", "cache_text_encoder_outputs",
    "cache_text_encoder_outputs_to_disk", "text_encoder_batch_size", "cache_dir", "max_data_loader_n_workers",
    "persistent_data_loader_workers", "strict", "gradient_checkpointing", "blocks_to_swap", "cuda_graphs", "torch_compile",
    "dynamo_backend", "attention", "on_nan", "nan_limit", "halve_batch_on_oom", "seed",
)  # fmt: skip
"""Settings of other groups that do not either, or only by rounding and by which dropouts are drawn; and those that are told of elsewhere."""

SEEN_BY_THE_DATA = (
    "train_data_dir", "reg_data_dir", "dataset_config", "datasets", "general", "in_json", "train_batch_size",
    "gradient_accumulation_steps", "pretrained_model_name_or_path",
)  # fmt: skip
"""Settings that matter by what they lead to, which is compared itself: another folder with the same pictures, more processes with
smaller batches, the same model in another place."""


def check_settings(position: Position, config: Mapping[str, Any], on_request: bool) -> list[str]:
    """Settings that are otherwise than when the state was saved and change what is trained, in words.

    Args:
        on_request: whether changes were asked for.

    Raises:
        UserError: a change that the saved tensors do not allow, or one that was not asked for.
    """
    now = json.loads(json.dumps(config))  # lists for tuples, as in the saved one
    before = _defaults() | dict(position.config)
    changed = {key: (before.get(key), now[key]) for key in now if before.get(key) != now[key]}
    forbidden = [
        _words(key, *values) for key, values in changed.items() if key in FIXED and not _says_the_same(*values)
    ]
    if now.get("seed") not in (None, position.seed):
        forbidden.append(_words("seed", position.seed, now["seed"]))
    told = [_words(key, *values) for key, values in changed.items() if _matters(key)]
    if forbidden:
        beside = f" Changed besides, which resume_with_changes allows: {'; '.join(told)}." if told else ""
        raise UserError(
            f"this run cannot be resumed with another network, optimizer or seed: {'; '.join(forbidden)}. Set it back.{beside}"
        )
    return _asked_for(told, on_request)


def check_material(
    position: Position, data: str, model: str, network_weights: str, keeps_frozen: bool, on_request: bool
) -> list[str]:
    """As `check_settings`, for the pictures, the base model and the LoRA file that the network started from.

    Args:
        data, model, network_weights: fingerprints, as in `Position`.
        keeps_frozen: whether the network holds tensors that are not trained, which a state does not hold either.
    """
    told = []
    if position.network_weights not in (None, network_weights):
        if keeps_frozen:
            raise UserError(
                "network_weights is not the file that the state's run started from. This network keeps a part of that file as it is, "
                "and the state holds only what is trained, so the run cannot go on without it. Put the file back, or start a new run "
                "whose network_weights is the LoRA file that was saved with the state."
            )
        told.append("network_weights is not the file that the state's run started from")
    if data != position.data:
        told.append(
            "the pictures, captions, dataset settings or batch sizes are not those of the state, so their order is new"
        )
    if model != position.model:
        told.append("the base model's weights are not those of the state (base_weights are merged into them)")
    return _asked_for(told, on_request)


def _asked_for(told: list[str], on_request: bool) -> list[str]:
    if told and not on_request:
        raise UserError(
            f"since the state was saved, what is trained has changed: {'; '.join(told)}. Set it back to continue the same run, or "
            "give --resume_with_changes to train on with the new. Free to change without it: max_train_steps and "
            "max_train_epochs, saving, sampling, validation intervals, logging, caching, and what trades speed for memory."
        )
    return told


def _defaults() -> dict[str, Any]:
    """What options had that an older program did not know."""
    return json.loads(json.dumps({key: option.default for key, option in catalog().items() if not option.required}))


def _matters(key: str) -> bool:
    return key not in (*FIXED, *FREE, *SEEN_BY_THE_DATA) and catalog()[key].group not in FREE_GROUPS


def _words(key: str, before: Any, now: Any) -> str:
    return f"{key} was {before!r} and is now {now!r}"


def _says_the_same(one: Any, other: Any) -> bool:
    """Whether two plugin arguments differ in spelling only: {"conv_dim": "8"} and {"conv_dim": 8}."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: str(value) for key, value in one.items()} == {key: str(value) for key, value in other.items()}
    return one == other
