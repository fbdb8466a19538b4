"""The processes of a run have the same settings, state and pictures, or the run stops: machines need not share a disk.

Processes that differ would train something else each, and their sum would mean nothing; no later step would show it.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from library.core.errors import UserError
from library.data.dataset import TrainingData
from library.training.state.checkpoint import Position

if TYPE_CHECKING:
    from pathlib import Path

    from accelerate import Accelerator

LOCAL = (
    "cache_dir", "extends", "log_prefix", "logging_dir", "max_data_loader_n_workers", "output_dir", "persistent_data_loader_workers",
    "progress", "resume",
)  # fmt: skip
"""Settings that each machine may have its own way: they do not touch what is computed. What `resume` finds is compared."""

NAMED = 5
"""Pictures that a message names."""

ABSENT = "absent"


def require_same_settings(accelerator: Accelerator, settings: Mapping[str, Any]) -> None:
    """Stop on every process where one was started with other settings.

    Raises:
        UserError: names the settings with each value.
    """
    differing = differences(accelerator, {key: value for key, value in settings.items() if key not in LOCAL})
    if differing:
        listed = "; ".join(f"{key}: {_by_process(values)}" for key, values in differing.items())
        raise UserError(
            f"the processes were started with different settings: {listed}. Give every machine the same config and command line."
        )


def require_same_state(accelerator: Accelerator, state: Path | None, position: Position | None) -> None:
    """Stop on every process where one would continue from elsewhere.

    Raises:
        UserError: tells which state each process found.
    """
    found = "no state"
    if state is not None and position is not None:
        found = f"{state.name} at step {position.step}, seed {position.seed}, run {position.started_at:.0f}"
    differing = differences(accelerator, {"resume": found})
    if differing:
        raise UserError(
            f"the processes found different states to resume: {_by_process(differing['resume'])}. Copy the newest -state folder to the "
            "output_dir of every machine, or give all of them an output_dir on a disk that they share."
        )


def require_same_data(accelerator: Accelerator, data: TrainingData) -> None:
    """Stop on every process where one has other pictures or captions.

    Raises:
        UserError: names some of them.
    """
    if not differences(accelerator, {"data": data.fingerprint()}):
        return
    facts = {str(each.path): (each.content, each.mask_content, each.caption) for each in data.material.pictures}
    differing = differences(accelerator, facts)
    if differing:
        names = [_state_of(name, values) for name, values in list(differing.items())[:NAMED]]
        more = f" and {len(differing) - NAMED} more" if len(differing) > NAMED else ""
        raise UserError(
            f"the processes do not have the same training pictures and captions: {', '.join(names)}{more}. "
            "Copy the data to every machine anew, or use a disk that they share."
        )
    raise UserError(
        "the processes put the same pictures into different batches. Give every machine the same dataset_config and metadata files."
    )


def require_same_weights(
    accelerator: Accelerator, trained: Tensor, kept: Mapping[str, Tensor], base_model: str
) -> None:
    """Stop on every process where one begins with other weights.

    Args:
        trained: (N,) all trained values.
        kept: the network's tensors that are not trained, by name.
        base_model: its fingerprint.

    Raises:
        UserError: says which weights.
    """
    facts = {
        "the base model": base_model,
        "the network (network_weights, or the state)": _hash({"trained": trained}),
        "the network's frozen part (of network_weights, or computed, as by PiSSA on unequal GPUs)": _hash(kept),
    }
    differing = differences(accelerator, facts)
    if differing:
        raise UserError(
            f"the processes have different weights of {' and of '.join(differing)}. Copy the same files to every machine, or use a disk "
            "that they share."
        )


def differences(accelerator: Accelerator, facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The facts that are not the same everywhere: name -> process -> value. All processes get the same answer."""
    if accelerator.num_processes == 1:
        return {}
    label = f"process {accelerator.process_index} on {socket.gethostname()}"
    gathered: list[Any] = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(gathered, (label, dict(facts)))
    names = dict.fromkeys(name for _, each in gathered for name in each)
    table = {name: {label: each.get(name, ABSENT) for label, each in gathered} for name in names}
    return {name: values for name, values in table.items() if any(value != _first(values) for value in values.values())}


def _hash(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _first(values: Mapping[str, Any]) -> Any:
    return next(iter(values.values()))


def _by_process(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{value} in {process}" for process, value in values.items())


def _state_of(picture: str, values: Mapping[str, Any]) -> str:
    """A picture and where it is absent, if it is anywhere."""
    without = [process for process, value in values.items() if value == ABSENT]
    return f"{picture} (absent in {', '.join(without)})" if without else picture
