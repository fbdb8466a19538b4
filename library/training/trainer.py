"""From the configuration to a trainer, new or resumed."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

from torch import nn

from library.config.check_data import trains_text_encoder
from library.config.schema import Config
from library.core.errors import UserError
from library.data.dataset import TrainingData
from library.data.pictures.buckets import Size
from library.diffusion.distance import build_distance
from library.diffusion.weighting import build_weighting
from library.models.base import DiffusionModel, Part
from library.optim.ema import ExponentialAverage
from library.optim.flat import flatten
from library.optim.optimizers import build_optimizer, warn_about_schedule
from library.optim.schedules import build_schedule
from library.training.broken import BrokenUpdates
from library.training.compiling import compile_blocks, uncompiled
from library.training.data import model_fingerprint
from library.training.graphs import CapturedPasses
from library.training.halving import Halving
from library.training.length import Length
from library.training.loss_scale import LossScale
from library.training.objective import Objective
from library.training.processes.agreement import require_same_weights
from library.training.recorder import CudaRecorder, obstacle
from library.training.run import Run
from library.training.state.changes import check_material
from library.training.state.checkpoint import Position, load_state
from library.training.state.snapshot import restore
from library.training.step import LAG, Trainer
from networks.base import Network, Rates
from networks.files.merge import merge_base_weights
from networks.frozen import frozen_tensors

log = logging.getLogger("dojo")


def trained_hosts(run: Run, model: DiffusionModel) -> dict[str, nn.Module]:
    """The modules that get a network: those with a learning rate. Parts without any are not loaded for it."""
    parts: list[Part] = ["unet"]
    if trains_text_encoder(run.config):
        parts.append("text_encoders")
    hosts = model.hosts(parts)
    return {name: hosts[name] for name in rates_of(run.config, hosts).by_host}


def rates_of(config: Config, hosts: Iterable[str]) -> Rates:
    """The learning rate of each host that is trained.

    Raises:
        UserError: nothing is left to train, or there are more text encoder rates than text encoders.
    """
    optimizer, network = config.optimizer, config.network
    encoders = sorted(host for host in hosts if host != "unet")
    given = optimizer.text_encoder_lr or [optimizer.learning_rate]
    if len(given) > max(1, len(encoders)) and len(set(given)) > 1:  # GUIs write the one rate twice for any model
        raise UserError(f"text_encoder_lr has {len(given)} values, but the model has {len(encoders)} text encoder(s).")
    rates = {host: given[min(number, len(given) - 1)] for number, host in enumerate(encoders)}
    if not network.network_train_text_encoder_only:
        rates["unet"] = optimizer.learning_rate if optimizer.unet_lr is None else optimizer.unet_lr
    trained = {host: rate for host, rate in rates.items() if rate > 0}
    if not trained:
        raise UserError(
            "nothing would be trained: the learning rate of every part is 0. Set learning_rate, unet_lr or text_encoder_lr."
        )
    return Rates(trained)


def prepare_base(run: Run, model: DiffusionModel) -> None:
    """Merge `base_weights` into the model; its parts must then stay in memory."""
    if run.config.network.base_weights:
        merge_base_weights(run.config.network, model.hosts(["unet", "text_encoders"]), model.family)


def build_trainer(run: Run, model: DiffusionModel, network: Network, length: Length) -> Trainer:
    """The trainer as it is at the start of a run; `resume` then sets it forward."""
    config = run.config
    if config.training.gradient_checkpointing:
        selective = config.training.gradient_checkpointing == "selective"
        model.enable_gradient_checkpointing(selective, network.draws_random)
    groups = flatten(network.parameter_groups(rates_of(config, trained_hosts(run, model))))
    optimizer = build_optimizer(config.optimizer, groups)
    warn_about_schedule(optimizer, config.schedule)
    compiles = config.training.torch_compile and config.training.dynamo_backend != "no"
    if compiles:
        compile_blocks(model.hosts(["unet"])["unet"], config.training.dynamo_backend, run.device)
    decay = config.training.ema_decay
    return Trainer(
        model=model,
        network=network,
        objective=Objective(
            model, build_distance(config.loss, model.process), build_weighting(config.loss, model.process)
        ),
        groups=groups,
        optimizer=optimizer,
        schedule=build_schedule(config.schedule, length.schedule_steps),
        loss_scale=LossScale(config.training.mixed_precision == "fp16", run.device),
        ema=None if decay is None else ExponentialAverage(groups, decay),
        seed=run.seed,
        rank=run.rank,
        processes=run.processes,
        device=run.device,
        max_grad_norm=config.training.max_grad_norm,
        max_weight_norm=config.network.scale_weight_norms,
        lag=LAG if run.device.type == "cuda" else 0,
        broken=BrokenUpdates(config.training.on_nan, config.training.nan_limit),
        uncompiled=uncompiled if compiles else nullcontext,
        halving=Halving(config.training.halve_batch_on_oom, model.latents.stride),
    )


def captured_passes(run: Run, trainer: Trainer, data: TrainingData) -> CapturedPasses | None:
    """Replayed passes where they are wanted and possible, for `Trainer.captured`; says why where they are not."""
    if not run.config.training.cuda_graphs:
        return None
    reason = obstacle_of(run, trainer.network)
    if reason is not None:
        log.log(logging.WARNING if run.device.type == "cuda" else logging.INFO, "CUDA graphs are off: %s.", reason)
        return None
    whole_sizes: dict[tuple[int, int], set[int]] = {}
    stride = trainer.model.latents.stride
    for (width, height), samples in fullest_passes(run, data):
        whole_sizes.setdefault((height // stride, width // stride), set()).add(samples)
    return CapturedPasses(trainer.add_gradient, trainer.groups.gradients, CudaRecorder(run.device), whole_sizes)


def fullest_passes(run: Run, data: TrainingData) -> list[tuple[Size, int]]:
    """Of each bucket: width and height of its pictures in pixels, and the most samples that one pass over them has."""
    shares = run.processes * run.config.training.gradient_accumulation_steps
    return [(bucket.size, -(-bucket.first_batch().samples // shares)) for bucket in data.plan.buckets]


def obstacle_of(run: Run, network: Network) -> str | None:
    """Why this run's passes cannot be captured, where that is known beforehand."""
    recomputes = bool(run.config.training.gradient_checkpointing) and network.draws_random
    return obstacle(run.device, network.capturable, recomputes, bool(run.config.model.blocks_to_swap))


def resume(run: Run, trainer: Trainer, data: TrainingData) -> None:
    """Set the trainer forward to the run's state, if it has one; from here on all processes have the same weights.

    Raises:
        UserError: the state is of another network or optimizer, what is trained has changed without being asked for, or the
            processes have different weights.
    """
    if run.state is not None and run.position is not None:
        _continue_from(run, trainer, data, run.state, run.position)
    if run.processes > 1:
        kept = frozen_tensors(trainer.network)
        require_same_weights(run.accelerator, trainer.groups.values, kept, model_fingerprint(run, trainer.model))


def _continue_from(run: Run, trainer: Trainer, data: TrainingData, state: Path, position: Position) -> None:
    on_request = run.config.saving.resume_with_changes
    model, keeps_frozen = model_fingerprint(run, trainer.model), bool(frozen_tensors(trainer.network))
    changes = check_material(position, data.fingerprint(), model, run.network_weights, keeps_frozen, on_request)
    run.tell_all([f"changed since the state was saved: {change}" for change in changes])
    if position.machine != run.machine:
        run.say(
            f"the state was saved on another machine ({position.machine}; this is {run.machine}), where sums are rounded otherwise: the run "
            "goes on as it would have, but not bitwise."
        )
    restore(trainer, load_state(state), str(state))
