"""One run: its processes, its precision, its seed, its folder."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from library.config.load import LoadedConfig
from library.config.resolved import as_flat_dict
from library.config.schema import Config
from library.core.errors import UserError
from library.core.hashing import content_hash
from library.core.runtime import keep_freed_memory, use_all_cores
from library.core.signals import Signals
from library.core.terminal import harmless
from library.training.processes.agreement import require_same_settings, require_same_state
from library.training.state.changes import check_settings
from library.training.state.checkpoint import Position, find_state

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger("dojo")

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Run:
    """What every part of a run needs to know of it."""

    config: Config
    """With the files that are read; in place of a pickle, the safetensors file of its tensors."""
    as_written: Config
    """With the user's own paths."""
    accelerator: Accelerator
    seed: int
    state: Path | None
    """The state that is continued."""
    position: Position | None
    """Where that state stood."""
    started_at: float
    """Time of the first start of this run, in seconds since 1970."""
    now: float
    """Time of this start."""
    lora_files: Mapping[str, str] = field(default_factory=dict)
    """network_weights and each of base_weights -> the hash of its content at this start: the run may write over them."""
    signals: Signals = field(default_factory=Signals)
    """What asks the run to stop."""

    @property
    def settings(self) -> dict[str, Any]:
        """The flat configuration, as states keep it."""
        return as_flat_dict(self.as_written)

    @property
    def network_weights(self) -> str:
        """Fingerprint of the LoRA file that the network starts from; empty where it starts from none."""
        return self.lora_files.get(self.config.network.network_weights or "", "")

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.accelerator.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the frozen model and the activations."""
        return DTYPES[self.config.training.mixed_precision]

    @property
    def machine(self) -> str:
        """What decides how sums are rounded."""
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, torch {torch.__version__}"
        return f"CPU with {torch.get_num_threads()} threads, torch {torch.__version__}"

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return self.accelerator.process_index

    @property
    def processes(self) -> int:
        """Processes that train together."""
        return self.accelerator.num_processes

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.accelerator.is_main_process

    @property
    def folder(self) -> Path:
        """Where the run leaves its files."""
        return Path(self.config.saving.output_dir)

    def say(self, text: str) -> None:
        """Tell the user, once."""
        if self.is_main:
            print(harmless(text), flush=True)

    def tell_all(self, texts: Sequence[str]) -> None:
        """Tell the user several things."""
        for text in texts:
            self.say(text)


def start_run(loaded: LoadedConfig, config: Config, accelerator: Accelerator) -> Run:
    """Find the state to resume, settle the seed, and tell what was decided for the user.

    Raises:
        UserError: the launcher wants an engine that is not used, the state cannot be resumed with this configuration, or the
            processes do not agree.
    """
    keep_freed_memory()
    _refuse_other_engines(accelerator)
    if accelerator.device.type == "cpu":
        use_all_cores(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    require_same_settings(accelerator, as_flat_dict(loaded.config))
    state, position = _state(config)
    require_same_state(accelerator, state, position)
    on_request = config.saving.resume_with_changes
    changes = [] if position is None else check_settings(position, as_flat_dict(loaded.config), on_request)
    now = time.time()
    seed = position.seed if position is not None else _agreed_seed(config.training.seed, accelerator)
    readable, as_written = (
        replace(each, training=replace(each.training, seed=seed)) for each in (config, loaded.config)
    )
    run = Run(
        config=readable,
        as_written=as_written,
        accelerator=accelerator,
        seed=seed,
        state=state,
        position=position,
        started_at=position.started_at if position else now,
        now=now,
        lora_files={file: content_hash(Path(file).read_bytes()) for file in _lora_files(config)},
    )
    run.tell_all([f"warning: {warning}" for warning in loaded.warnings])
    run.tell_all([f"notice: {notice}" for notice in loaded.notices])
    if config.training.seed is None:
        run.say(f"seed: {seed}")
    if position is not None:
        run.say(f"resuming from {state} at step {position.step}")
    run.tell_all([f"changed since the state was saved: {change}" for change in changes])
    return run


def _refuse_other_engines(accelerator: Accelerator) -> None:
    """Engines that the user's `accelerate config` may name and that would otherwise be left out without a word."""
    from accelerate.utils import DistributedType

    used = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if accelerator.distributed_type not in used:
        raise UserError(
            f"accelerate is configured for {accelerator.distributed_type.value}, which LoRA training here does not use: a LoRA's "
            "gradients are small. Launch with `accelerate launch --multi_gpu` or on one device."
        )


def _state(config: Config) -> tuple[Path, Position] | tuple[None, None]:
    if config.saving.resume is None:
        return None, None
    found = find_state(config.saving.resume, Path(config.saving.output_dir), config.saving.output_name)
    if found is None:
        log.warning(
            "resume = latest: no state of '%s' in %s; starting anew.",
            config.saving.output_name,
            config.saving.output_dir,
        )
    return found or (None, None)


def _lora_files(config: Config) -> list[str]:
    network = config.network
    return [*network.base_weights, *([network.network_weights] if network.network_weights else [])]


def _agreed_seed(seed: int | None, accelerator: Accelerator) -> int:
    """The configured seed, or one that the main process draws for all."""
    if seed is not None:
        return seed
    drawn = torch.tensor(secrets.randbelow(2**31), device=accelerator.device)
    if accelerator.num_processes > 1:
        torch.distributed.broadcast(drawn, src=0)
    return int(drawn)
