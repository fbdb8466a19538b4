"""The state of a run: what `resume` continues from, bitwise. A folder of safetensors and one JSON file, written whole.

name-step00000500-state/
    state.json               format version, position, seed, configuration, the optimizer's plain numbers
    network.safetensors      the trained weights in fp32
    optimizer.safetensors    the optimizer's tensors
    average.safetensors      the averaged weights, where ema_decay is set
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from library.core.errors import UserError
from library.core.files import new_folder
from library.optim.state import load_optimizer_state, optimizer_state
from library.training.step import Trainer

log = logging.getLogger("dojo")

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Position:
    """Where a run stands, and what its future depends on besides the tensors."""

    step: int
    """Updates done."""
    schedule_steps: int
    """Length of the learning-rate curve."""
    seed: int
    data: str
    """Fingerprint of the training pictures and captions."""
    config: Mapping[str, Any]
    """The flat configuration."""
    started_at: float
    """Time of the run's first start, in seconds since 1970."""


def save_state(folder: Path, trainer: Trainer, position: Position) -> None:
    """Write the state; a crash at any moment leaves no half-written folder of that name."""
    optimizer_tensors, optimizer_scalars = optimizer_state(trainer.optimizer.inner)
    tensors = {
        "network.safetensors": {str(index): group.values for index, group in enumerate(trainer.groups)},
        "optimizer.safetensors": optimizer_tensors,
    }
    if trainer.ema is not None:
        tensors["average.safetensors"] = trainer.ema.state()
    with new_folder(folder) as temporary:
        for name, content in tensors.items():
            save_file({key: _plain(value) for key, value in content.items()}, temporary / name)
        description = {
            "format_version": FORMAT_VERSION,
            **vars(position),
            "optimizer": optimizer_scalars,
            "loss_scale": trainer.loss_scale.state(),
            "files": {name: (temporary / name).stat().st_size for name in tensors},
        }
        (temporary / "state.json").write_text(json.dumps(description, indent=1), encoding="utf-8")


def _plain(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True).contiguous()


def load_trainer(folder: Path, trainer: Trainer) -> None:
    """Put weights, optimizer, loss scale and average back as they were saved.

    Raises:
        UserError: the state is of another network or optimizer.
    """
    description = read_description(folder)
    values = load_file(folder / "network.safetensors")
    shapes = {name: tuple(value.shape) for name, value in values.items()}
    wanted = {str(index): tuple(group.values.shape) for index, group in enumerate(trainer.groups)}
    if shapes != wanted:
        raise UserError(
            f"the state in {folder} holds another network: {shapes} trained values, this run has {wanted}. "
            "Resume with the network settings that the state was saved with."
        )
    for index, group in enumerate(trainer.groups):
        group.values.copy_(values[str(index)])
    load_optimizer_state(trainer.optimizer.inner, load_file(folder / "optimizer.safetensors"), description["optimizer"])
    trainer.loss_scale.load_state(description["loss_scale"])
    if trainer.ema is not None:
        average = folder / "average.safetensors"
        if not average.is_file():
            raise UserError(
                f"ema_decay is set, but the state in {folder} was saved without an average. Unset ema_decay to resume."
            )
        trainer.ema.load_state(load_file(average))


def read_description(folder: Path) -> dict[str, Any]:
    """`state.json`, after making sure that the files beside it are whole.

    Raises:
        UserError: not a state, torn, or of a newer version.
    """
    try:
        description = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} is not a state of a LoRA Dojo run: {error}. Give a folder that ends in -state."
        ) from error
    expected = {"format_version", "files", "optimizer", "loss_scale", *Position.__dataclass_fields__}
    if not isinstance(description, dict) or not expected <= description.keys():
        raise UserError(
            f"{folder} is not a state of a LoRA Dojo run: state.json is incomplete. Give a folder that ends in -state."
        )
    version = description["format_version"]
    if version != FORMAT_VERSION:
        raise UserError(
            f"the state in {folder} has format version {version}; this program reads version {FORMAT_VERSION}."
        )
    for name, size in description["files"].items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != size:
            raise UserError(
                f"the state in {folder} is damaged: {name} is missing or cut short. Resume from an earlier one."
            )
    return description


def read_position(folder: Path) -> Position:
    """Where the saved run stood."""
    description = read_description(folder)
    return Position(**{name: description[name] for name in Position.__dataclass_fields__})


def find_state(resume: str, output_dir: Path, output_name: str) -> Path | None:
    """The folder to resume from; for `latest` the last whole state of the last run of that name, or None when there is none.

    Raises:
        UserError: the named folder is not a state.
    """
    if resume != "latest":
        read_description(Path(resume))
        return Path(resume)
    found: dict[Path, tuple[float, int]] = {}
    pattern = re.compile(re.escape(output_name) + r"(-\d{6}|-step\d{8})?-state")
    for folder in output_dir.iterdir() if output_dir.is_dir() else ():
        if pattern.fullmatch(folder.name):
            try:
                position = read_position(folder)
                found[folder] = (position.started_at, position.step)
            except UserError as error:
                log.warning("passed over: %s", error)
    return max(found, key=lambda folder: found[folder]) if found else None


FIXED = (
    "network_module", "network_dim", "network_alpha", "network_args", "network_train_unet_only",
    "network_train_text_encoder_only", "optimizer_type",
)  # fmt: skip
"""Settings that a resumed run cannot change: the saved tensors belong to them."""

INDIFFERENT = (
    "resume", "resume_with_new_schedule", "output_dir", "logging_dir", "log_prefix", "log_every_n_steps", "progress",
    "max_data_loader_n_workers", "cache_dir", "extends", "max_train_steps", "max_train_epochs", "persistent_data_loader_workers",
    "seed",
)  # fmt: skip
"""Settings whose change needs no word: they do not touch what is computed, or are told of elsewhere."""


def changes_since(position: Position, config: Mapping[str, Any]) -> list[str]:
    """What the configuration says otherwise than the saved one, in words.

    Raises:
        UserError: a change that the saved tensors do not allow, or another seed.
    """
    now = json.loads(json.dumps(config))
    changed = [key for key in now if position.config.get(key) != now[key] and key not in INDIFFERENT]
    told = {key: f"{key} was {position.config.get(key)!r} and is now {now[key]!r}" for key in changed}
    forbidden = [
        text for key, text in told.items() if key in FIXED and not _says_the_same(position.config.get(key), now[key])
    ]
    if now.get("seed") not in (None, position.seed):
        forbidden.append(f"seed was {position.seed} and is now {now['seed']}")
    if forbidden:
        raise UserError(
            f"this run cannot be resumed with another network, optimizer or seed: {'; '.join(forbidden)}. Set it back."
        )
    return [text for key, text in told.items() if key not in FIXED]


def _says_the_same(one: Any, other: Any) -> bool:
    """Whether two plugin arguments differ in spelling only: {"conv_dim": "8"} and {"conv_dim": 8}."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: str(value) for key, value in one.items()} == {key: str(value) for key, value in other.items()}
    return one == other
