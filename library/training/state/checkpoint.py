"""The state of a run on disk: what `resume` continues from, bitwise. A folder of safetensors and one JSON file, written whole.

name-step00000500-state/
    state.json               format version, position, seed, configuration, the optimizer's plain numbers, hashes of the files
    network.safetensors      the trained weights in fp32
    optimizer.safetensors    the optimizer's tensors
    average.safetensors      the averaged weights, where ema_decay is set
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save_file

from library.core.documents import parse_json
from library.core.errors import UserError
from library.core.files import new_folder
from library.training.state.names import STATE, checkpoints
from library.training.state.snapshot import Snapshot

log = logging.getLogger("dojo")

FORMAT_VERSION = 2

EARLIER = " Resume from an earlier one."

FILES = ("network.safetensors", "optimizer.safetensors", "average.safetensors")

SCALARS = ("optimizer", "loss_scale", "nan_met", "halved")

CONTENT: dict[str, type | tuple[type, ...]] = {
    "step": int, "schedule_steps": int, "seed": int, "data": str, "model": str, "config": dict, "started_at": (int, float),
    "saved_at": (int, float), "machine": str, "network_weights": (str, NoneType), "optimizer": dict, "loss_scale": dict, "nan_met": int,
    "halved": list, "files": dict, "digest": str,
}  # fmt: skip
"""Types of what `state.json` holds."""


@dataclass(frozen=True)
class Position:
    """Where a run stands, and what its future depends on besides the tensors."""

    step: int
    """Updates done."""
    schedule_steps: int
    """Length of the learning-rate curve."""
    seed: int
    data: str
    """Fingerprint of the training pictures, captions and batches."""
    model: str
    """Fingerprint of the frozen model."""
    config: Mapping[str, Any]
    """The flat configuration."""
    started_at: float
    """Time of the run's first start, in seconds since 1970."""
    saved_at: float
    """Time of this state, likewise."""
    machine: str
    """What decides how sums are rounded: the device, on a CPU the number of threads, and torch's version."""
    network_weights: str | None = None
    """Fingerprint of the LoRA file that the network started from; empty: from none. None: not known, as older states do not say it."""


def save_state(folder: Path, snapshot: Snapshot, position: Position) -> None:
    """Write the state; a crash at any moment leaves no half-written folder of that name."""
    size = sum(tensor.nbytes for tensors in snapshot.tensors.values() for tensor in tensors.values())
    with new_folder(folder, size) as temporary:
        files = {}
        for part, tensors in snapshot.tensors.items():
            file = temporary / f"{part}.safetensors"
            save_file(dict(tensors), file)
            with file.open("rb") as written:
                files[file.name] = hashlib.file_digest(written, "sha256").hexdigest()
        content = {"format_version": FORMAT_VERSION, **vars(position), **snapshot.scalars, "files": files}
        description = {**content, "digest": _digest(content)}
        (temporary / "state.json").write_text(json.dumps(description, indent=1), encoding="utf-8")


def load_state(folder: Path) -> Snapshot:
    """What `save_state` wrote.

    Raises:
        UserError: not a state, or damaged.
    """
    description = _read_description(folder)
    try:
        tensors = {Path(name).stem: load(content) for name, content in _whole_files(folder, description)}
    except SafetensorError as error:
        raise UserError(f"the state in {folder} is damaged: {error}.{EARLIER}") from error
    return Snapshot(tensors, {name: description[name] for name in SCALARS})


def read_position(folder: Path) -> Position:
    """Where the saved run stood.

    Raises:
        UserError: not a state, torn, changed since it was written, or of another version.
    """
    description = _read_description(folder)
    for _ in _whole_files(folder, description):
        pass
    return _position(description)


def find_state(resume: str, output_dir: Path, output_name: str) -> tuple[Path, Position] | None:
    """The folder to resume from and where it stood; for `latest` the whole state of that name that was saved last.

    Raises:
        UserError: not a state, or damaged; for `latest`, where every state of that name is.
    """
    if resume != "latest":
        return Path(resume), read_position(Path(resume))
    pattern = checkpoints(output_name, STATE)
    folders = list(output_dir.iterdir()) if output_dir.is_dir() else []
    found = sorted((each for each in folders if pattern.fullmatch(each.name)), key=_saved_at, reverse=True)
    for folder in found:
        try:
            return folder, read_position(folder)
        except UserError as error:
            log.warning("passed over: %s", str(error).removesuffix(EARLIER))
    if found:
        raise UserError(
            f"resume = latest: none of the states in {output_dir} can be read "
            f"({', '.join(sorted(folder.name for folder in found))}). Remove them to start anew, or name another state."
        )
    return None


def _saved_at(folder: Path) -> float:
    """Infinite for what cannot be read, so that it is looked at, and told of, first."""
    try:
        return _read_description(folder)["saved_at"]
    except UserError:
        return math.inf


def _position(description: Mapping[str, Any]) -> Position:
    return Position(**{name: description[name] for name in Position.__dataclass_fields__ if name in description})


def _read_description(folder: Path) -> dict[str, Any]:
    """`state.json`.

    Raises:
        UserError: it is not there, not of this format version, or not what `save_state` writes.
    """
    try:
        description = parse_json((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} is not a state of a LoRA Dojo run: {_in_words(error)}. {_states_in(folder)}"
        ) from error
    version = description.get("format_version") if isinstance(description, dict) else None
    if version is not None and version != FORMAT_VERSION:
        raise UserError(
            f"the state in {folder} has format version {version!r}; this program reads version {FORMAT_VERSION}."
        )
    if not isinstance(description, dict) or not all(
        isinstance(description.get(name), kind) for name, kind in CONTENT.items()
    ):
        raise UserError(
            f"{folder} is not a state of a LoRA Dojo run: state.json is incomplete. Give a folder that ends in -state."
        )
    if description.pop("digest") != _digest(description):
        raise UserError(f"the state in {folder} is damaged: state.json has changed.{EARLIER}")
    return description


def _whole_files(folder: Path, description: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """The name and content of each file, compared with what was written.

    Raises:
        UserError: one is not what it was.
    """
    files = description["files"]
    for name in dict.fromkeys(("network.safetensors", "optimizer.safetensors", *files)):
        content = _content(folder / name) if name in FILES else None
        if content is None or hashlib.sha256(content).hexdigest() != files.get(name):
            raise UserError(f"the state in {folder} is damaged: {name} is missing, cut short or changed.{EARLIER}")
        yield name, content


def _in_words(error: Exception) -> str:
    return "there is no state.json in it" if isinstance(error, FileNotFoundError) else str(error)


def _states_in(folder: Path) -> str:
    """What to do about a folder that is no state: mostly it is the one above."""
    found = sorted(path.name for path in folder.glob(f"*{STATE}")) if folder.is_dir() else []
    return f"It holds states, name one of them: {', '.join(found)}." if found else "Give a folder that ends in -state."


def _digest(content: Mapping[str, Any]) -> str:
    """A hash of JSON's content, however it is laid out."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _content(file: Path) -> bytes | None:
    """None where it cannot be read."""
    try:
        return file.read_bytes()
    except OSError:
        return None
