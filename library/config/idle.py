"""Settings that have no effect because of what else is set.

A warning is told only for what the user wrote: not for what a shipped preset sets to serve many runs, nor for values
that are the default anyway, as GUIs write every key into their files.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from library.config.catalog import catalog
from library.config.check_places import pickled
from library.config.conflicts import Conflict, Situation

NEVER_USED = ("persistent_data_loader_workers",)
"""Options of sd-scripts' that every run is given in vain."""


@dataclass(frozen=True)
class Idle:
    """Options that do nothing in some situations."""

    keys: tuple[str, ...]
    when: Callable[[Situation], bool]
    why: str
    """Follows "has no effect"."""


def idle_settings(situation: Situation, written: Collection[str]) -> Iterator[Conflict]:
    """What the user set in vain; each option is told once, by the first rule that holds.

    Args:
        written: options that the user set outside of the dataset tables.
    """
    told: set[str] = set()
    for rule in IDLE:
        keys = tuple(key for key in rule.keys if key not in told and _is_set(key, situation, written))
        if keys and rule.when(situation):
            told.update(keys)
            yield Conflict(keys, f"{_listed(keys)} no effect {rule.why}.", fatal=False)


def _is_set(key: str, situation: Situation, written: Collection[str]) -> bool:
    """Whether the user gave it another value than its default, for the run or for a part of its data."""
    declared = catalog()[key]
    of_run = getattr(getattr(situation.config, declared.group), key)
    parts: dict[str, list[Any]] = {
        "buckets": situation.buckets,
        "captions": situation.captions,
        "images": situation.images,
    }
    values = [getattr(part, key) for part in parts.get(declared.group, ())]
    in_tables = any(value not in (of_run, declared.default) for value in values)
    return in_tables or (key in written and of_run != declared.default)


def _listed(keys: tuple[str, ...]) -> str:
    """ "a has", "a and b have", "a, b and c have"."""
    if len(keys) == 1:
        return f"{keys[0]} has"
    return f"{', '.join(keys[:-1])} and {keys[-1]} have"


def _has_tables(situation: Situation) -> bool:
    return bool(situation.config.data.datasets or situation.config.data.dataset_config)


def _no_regularisation(situation: Situation) -> bool:
    return not any(subset.is_reg for subset in situation.subsets)


def _no_text_encoder_rate(situation: Situation) -> bool:
    """A rate of 0 says the same as training the UNet alone."""
    return situation.config.network.network_train_unet_only and any(situation.config.optimizer.text_encoder_lr or ())


def _no_rank(situation: Situation) -> bool:
    """Networks without matrices of a chosen rank."""
    network = situation.config.network
    whole = str(network.network_args.get("full_matrix")).lower() == "true"
    return network.network_module == "networks.ia3" or (network.network_module == "networks.lokr" and whole)


def _no_unet_rate(situation: Situation) -> bool:
    return situation.config.network.network_train_text_encoder_only and bool(situation.config.optimizer.unet_lr)


def _no_tag_moves(situation: Situation) -> bool:
    return not any(
        each.shuffle_caption or each.caption_tag_dropout_rate > 0 or each.token_warmup_step > 0
        for each in situation.captions
    )


def _no_buckets(situation: Situation) -> bool:
    return not any(each.enable_bucket for each in situation.buckets)


def _own_sizes(situation: Situation) -> bool:
    return all(each.bucket_no_upscale for each in situation.buckets if each.enable_bucket)


def _no_split(situation: Situation) -> bool:
    return not any(each.validation_split > 0 for each in situation.buckets)


def _no_pictures_asked(situation: Situation) -> bool:
    sampling = situation.config.sampling
    return not (sampling.sample_every_n_steps or sampling.sample_every_n_epochs or sampling.sample_at_first)


IDLE: tuple[Idle, ...] = (
    Idle(
        ("train_data_dir", "reg_data_dir", "in_json"),
        _has_tables,
        "as dataset tables are given ([[datasets]], or dataset_config)",
    ),
    Idle(
        ("dataset_repeats",),
        lambda s: not (s.config.data.in_json or _has_tables(s)),
        "without in_json or dataset tables: the names of the folders say how often their pictures are repeated",
    ),
    Idle(NEVER_USED, lambda s: True, "here: workers always live as long as the run"),
    Idle(("vae_batch_size",), lambda s: not s.config.data.cache_latents, "without cache_latents = true"),
    Idle(
        ("text_encoder_batch_size",),
        lambda s: not s.config.data.cache_text_encoder_outputs,
        "without cache_text_encoder_outputs = true",
    ),
    Idle(
        ("min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale"),
        _no_buckets,
        "without enable_bucket = true",
    ),
    Idle(
        ("min_bucket_reso", "max_bucket_reso"),
        _own_sizes,
        "with bucket_no_upscale, where each picture makes a bucket of its own size",
    ),
    Idle(("keep_tokens",), _no_tag_moves, "without shuffle_caption, caption_tag_dropout_rate or token_warmup_step"),
    Idle(
        ("token_warmup_min",),
        lambda s: not any(each.token_warmup_step > 0 for each in s.captions),
        "without token_warmup_step",
    ),
    Idle(
        ("conditioning_data_dir",),
        lambda s: not s.config.loss.masked_loss,
        "without masked_loss = true",
    ),
    Idle(
        (
            "validate_every_n_steps",
            "validate_every_n_epochs",
            "validation_timesteps",
            "validation_seed",
            "max_validation_steps",
        ),
        _no_split,
        "without validation_split, the share held out",
    ),
    Idle(("max_train_steps",), lambda s: s.config.training.max_train_epochs is not None, "beside max_train_epochs"),
    Idle(
        ("dynamo_backend",),
        lambda s: not s.config.training.torch_compile and s.config.training.dynamo_backend != "no",
        "without torch_compile = true",
    ),
    Idle(
        ("torch_compile",),
        lambda s: s.config.training.dynamo_backend == "no",
        'with dynamo_backend = "no"',
    ),
    Idle(("allow_pickle",), lambda s: not pickled(s.config), "without a .ckpt, .pt, .pth or .bin file to read"),
    Idle(("nan_limit",), lambda s: s.config.training.on_nan == "stop", 'without on_nan = "skip" or "rollback"'),
    Idle(
        ("halve_batch_on_oom",),
        lambda s: all(each.train_batch_size == 1 for each in s.buckets),
        "with train_batch_size = 1: there is nothing to halve",
    ),
    Idle(
        ("network_layers",),
        lambda s: (
            s.config.network.dim_from_weights
            and any({"dim", "alpha"} & rule.keys() for rule in s.config.network.network_layers)
        ),
        "in dim and alpha with dim_from_weights = true: the ranks and alphas of the file hold, only learning rates change",
    ),
    Idle(("text_encoder_lr",), _no_text_encoder_rate, "with network_train_unet_only = true"),
    Idle(
        ("network_dim", "network_alpha"),
        _no_rank,
        "with networks.ia3 and with full_matrix of networks.lokr, which have no rank",
    ),
    Idle(("unet_lr",), _no_unet_rate, "with network_train_text_encoder_only = true"),
    Idle(
        ("huber_c", "huber_schedule", "huber_scale"),
        lambda s: s.config.loss.loss_type in ("l2", "l1"),
        'without loss_type = "huber" or "smooth_l1"',
    ),
    Idle(
        ("prior_loss_weight",),
        _no_regularisation,
        "without regularisation pictures (reg_data_dir, or is_reg in a dataset table)",
    ),
    Idle(
        ("prior_prediction_weight",),
        lambda s: s.config.loss.prior_prediction_rate == 0,
        "without prior_prediction_rate",
    ),
    Idle(("noise_offset_random_strength",), lambda s: s.config.noise.noise_offset is None, "without noise_offset"),
    Idle(
        ("multires_noise_discount",),
        lambda s: s.config.noise.multires_noise_iterations is None,
        "without multires_noise_iterations",
    ),
    Idle(
        ("ip_noise_gamma_random_strength",), lambda s: s.config.noise.ip_noise_gamma is None, "without ip_noise_gamma"
    ),
    Idle(
        ("save_every_n_epochs",),
        lambda s: s.config.saving.save_n_epoch_ratio is not None,
        "beside save_n_epoch_ratio",
    ),
    Idle(
        ("save_last_n_epochs",),
        lambda s: s.config.saving.save_every_n_epochs is None and s.config.saving.save_n_epoch_ratio is None,
        "without save_every_n_epochs or save_n_epoch_ratio",
    ),
    Idle(
        ("save_last_n_steps",),
        lambda s: s.config.saving.save_every_n_steps is None,
        "without save_every_n_steps",
    ),
    Idle(
        ("save_last_n_epochs_state", "save_last_n_steps_state"),
        lambda s: not s.config.saving.save_state,
        "without save_state = true",
    ),
    Idle(
        ("resume_with_new_schedule", "resume_with_changes"), lambda s: s.config.saving.resume is None, "without resume"
    ),
    Idle(
        (
            "training_comment",
            "metadata_title",
            "metadata_author",
            "metadata_description",
            "metadata_license",
            "metadata_tags",
            "metadata_usage_hint",
            "metadata_trigger_phrase",
            "metadata_thumbnail",
            "metadata_merged_from",
            "metadata_preprocessor",
            "metadata_is_negative_embedding",
        ),
        lambda s: s.config.saving.no_metadata,
        "with no_metadata = true",
    ),
    Idle(
        ("sample_every_n_steps", "sample_every_n_epochs", "sample_at_first", "sample_sampler"),
        lambda s: not s.config.sampling.sample_prompts,
        "without sample_prompts, the file of prompts",
    ),
    Idle(
        ("sample_prompts", "sample_sampler"),
        _no_pictures_asked,
        "without sample_every_n_steps, sample_every_n_epochs or sample_at_first: no picture will be made",
    ),
    Idle(
        ("sample_every_n_steps",),
        lambda s: s.config.sampling.sample_every_n_epochs is not None,
        "beside sample_every_n_epochs",
    ),
    Idle(
        ("logging_dir", "log_prefix", "log_tracker_name", "log_every_n_steps"),
        lambda s: s.config.logging.log_with == "none",
        'with log_with = "none"',
    ),
)
