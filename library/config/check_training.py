"""Contradictions among the options of training."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from library.config.check_data import trains_text_encoder
from library.config.conflicts import Conflict, Situation
from library.config.schema import Config


def what_is_trained(situation: Situation) -> Iterator[Conflict]:
    """Both parts alone, or a learning rate of 0 for all that is left."""
    network, optimizer = situation.config.network, situation.config.optimizer
    unet_only, text_only = network.network_train_unet_only, network.network_train_text_encoder_only
    if unet_only and text_only:
        yield Conflict(
            ("network_train_unet_only", "network_train_text_encoder_only"),
            "network_train_unet_only and network_train_text_encoder_only exclude each other: keep one.",
        )
        return
    unet = _trains_unet(situation.config)
    text_rates = [optimizer.learning_rate] if optimizer.text_encoder_lr is None else optimizer.text_encoder_lr
    if not unet and (unet_only or not any(rate > 0 for rate in text_rates)):
        yield Conflict(
            (
                "learning_rate",
                "unet_lr",
                "text_encoder_lr",
                "network_train_unet_only",
                "network_train_text_encoder_only",
            ),
            "nothing would be trained: the learning rate of every part is 0. Set learning_rate, unet_lr or text_encoder_lr.",
        )


def _trains_unet(config: Config) -> bool:
    """Whether the UNet gets a network with a learning rate."""
    rate = config.optimizer.learning_rate if config.optimizer.unet_lr is None else config.optimizer.unet_lr
    return not config.network.network_train_text_encoder_only and rate > 0


def weights_to_start_from(situation: Situation) -> Iterator[Conflict]:
    """Ranks to be taken from no file, and more strengths than files to merge."""
    network = situation.config.network
    if network.dim_from_weights and not network.network_weights:
        yield Conflict(
            ("dim_from_weights", "network_weights"),
            "dim_from_weights needs network_weights, the file to take the ranks from.",
        )
    if len(network.base_weights_multiplier) > len(network.base_weights):
        yield Conflict(
            ("base_weights", "base_weights_multiplier"),
            f"base_weights_multiplier has {len(network.base_weights_multiplier)} values for "
            f"{len(network.base_weights)} base_weights.",
        )


def noise_kinds(situation: Situation) -> Iterator[Conflict]:
    """Two kinds of coloured noise at once, as sd-scripts allows, and a scale for an offset that is not set."""
    noise = situation.config.noise
    if noise.noise_offset is not None and noise.multires_noise_iterations is not None:
        yield Conflict(
            ("noise_offset", "multires_noise_iterations"),
            "noise_offset and multires_noise_iterations both colour the noise, one upon the other: one of them is usual.",
            fatal=False,
        )
    if noise.adaptive_noise_scale is not None and noise.noise_offset is None:
        yield Conflict(
            ("adaptive_noise_scale", "noise_offset"), "adaptive_noise_scale changes noise_offset, which is not set."
        )


def timesteps(situation: Situation) -> Iterator[Conflict]:
    """A smallest timestep that is not below the largest."""
    low = situation.config.noise.min_timestep or 0
    high = 1000 if situation.config.noise.max_timestep is None else situation.config.noise.max_timestep
    if low >= high:
        yield Conflict(
            ("min_timestep", "max_timestep"),
            f"min_timestep {low} must be below max_timestep {high}: no timestep is left.",
        )


def v_prediction(situation: Situation) -> Iterator[Conflict]:
    """Settings for models that predict v, or noise, against what the model is said to predict."""
    model, loss = situation.config.model, situation.config.loss
    if model.zero_terminal_snr and not model.v_parameterization:
        yield Conflict(
            ("zero_terminal_snr", "v_parameterization"),
            "zero_terminal_snr is meant for models that predict v; a model that predicts noise learns nothing at the "
            "last timestep.",
            fatal=False,
        )
    if loss.scale_v_pred_loss_like_noise_pred and model.v_parameterization is False:
        yield Conflict(
            ("scale_v_pred_loss_like_noise_pred", "v_parameterization"),
            "scale_v_pred_loss_like_noise_pred is for models that predict v, and v_parameterization is false.",
        )
    if loss.v_pred_like_loss is not None and model.v_parameterization:
        yield Conflict(
            ("v_pred_like_loss", "v_parameterization"),
            "v_pred_like_loss is for models that predict noise, and v_parameterization is true.",
        )


def packed_weights(situation: Situation) -> Iterator[Conflict]:
    """Quantised weights where a LoRA is to be merged, and where they only cost precision."""
    model, network, data = situation.config.model, situation.config.network, situation.config.data
    packed = [key for key in ("quantize_base", "quantize_text_encoders") if getattr(model, key) != "none"]
    if packed and network.base_weights:
        yield Conflict(
            (*packed, "base_weights"),
            f"base_weights cannot be merged into quantised weights: leave out {' and '.join(packed)}, or merge them into a "
            "model file first.",
        )
    if model.quantize_text_encoders != "none" and data.cache_text_encoder_outputs:
        yield Conflict(
            ("quantize_text_encoders", "cache_text_encoder_outputs"),
            "quantize_text_encoders saves nothing with cache_text_encoder_outputs, as the encoders leave the memory before "
            "training begins, and makes the cached outputs less exact. Leave it out.",
            fatal=False,
        )


def swapped_blocks(situation: Situation) -> Iterator[Conflict]:
    """Blocks that wait on the CPU, and what they need or cannot do."""
    model, training = situation.config.model, situation.config.training
    if model.blocks_to_swap is None:
        return
    if training.gradient_checkpointing is not True:
        yield Conflict(
            ("blocks_to_swap", "gradient_checkpointing"),
            "blocks_to_swap needs gradient_checkpointing = true: without it the backward pass holds every block on the GPU.",
        )
    if training.torch_compile:
        yield Conflict(
            ("blocks_to_swap", "torch_compile"),
            "blocks_to_swap moves weights that torch_compile takes to stay where they are: leave one of them out.",
        )


def tuners_of_peft(situation: Situation) -> Iterator[Conflict]:
    """Networks that compute with the model's own weights, where these are packed or wait elsewhere."""
    config = situation.config
    if not config.network.network_module.startswith("networks.peft."):
        return
    in_the_way = []
    if _trains_unet(config):
        in_the_way += ["quantize_base"] * (config.model.quantize_base != "none")
        in_the_way += ["blocks_to_swap"] * (config.model.blocks_to_swap is not None)
    if trains_text_encoder(config):
        in_the_way += ["quantize_text_encoders"] * (config.model.quantize_text_encoders != "none")
    if in_the_way:
        yield Conflict(
            ("network_module", *in_the_way),
            f"{config.network.network_module} computes with the model's own weights, which must be whole and on the device: leave out "
            f"{' and '.join(in_the_way)}, or take a network that is not one of networks.peft, such as networks.lora. "
            "gradient_checkpointing saves memory here too.",
        )


def selective_recomputing(situation: Situation) -> Iterator[Conflict]:
    """Two that decide what is computed again."""
    training = situation.config.training
    if training.gradient_checkpointing == "selective" and training.torch_compile:
        yield Conflict(
            ("gradient_checkpointing", "torch_compile"),
            'torch_compile decides by itself which cheap values are computed again, so gradient_checkpointing = "selective" has '
            "no place beside it: set it to true or false.",
        )


def lengths(situation: Situation) -> Iterator[Conflict]:
    """Phases of the learning rate that are longer than the run."""
    training, schedule = situation.config.training, situation.config.schedule
    if training.max_train_epochs is not None:
        return
    for key in ("lr_warmup_steps", "lr_decay_steps"):
        steps = getattr(schedule, key)
        if steps >= 1 and steps > training.max_train_steps:
            yield Conflict(
                (key, "max_train_steps"),
                f"{key} {steps:g} is longer than the run of {training.max_train_steps} steps.",
            )


def launcher(situation: Situation) -> Iterator[Conflict]:
    """`accelerate launch --mixed_precision x` says so in the environment; "no" is also what it says when not asked."""
    ours, theirs = situation.config.training.mixed_precision, os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if theirs not in ("no", ours):
        yield Conflict(
            ("mixed_precision",),
            f"`accelerate launch` was started with mixed precision {theirs}, the configuration says {ours}: make them agree "
            f'(`accelerate launch --mixed_precision {ours} train_network.py ...`, or mixed_precision = "{theirs}").',
        )


TRAINING_CHECKS: tuple[Callable[[Situation], Iterable[Conflict]], ...] = (
    what_is_trained,
    weights_to_start_from,
    noise_kinds,
    timesteps,
    v_prediction,
    packed_weights,
    swapped_blocks,
    tuners_of_peft,
    selective_recomputing,
    lengths,
    launcher,
)
