"""A model's files written anew with some weights changed: a single file, or a folder in the diffusers layout.

One tensor is in memory at a time. Everything else is kept as it is: names, types, metadata, the VAE, tokenizers, settings.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from library.core.disk import check_room
from library.core.errors import UserError
from library.core.files import new_folder, write_atomically
from library.models.checkpoint import COMPONENTS, Checkpoint, read_json
from library.models.rewriting.rewrite import Change, rewrite, rewritten_size
from library.models.rewriting.stored_places import StoredPlace, weight_files
from library.models.weights import FileHeader, read_header

WEIGHTS = frozenset({".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".onnx", ".onnx_data", ".h5", ".pb"})
"""Files of weights, in whatever program's form."""

HASHES = frozenset({"modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash"})
"""What the metadata says of the former weights."""

Edit = Callable[[Tensor], None]
"""Changes an fp32 weight in place."""

Tick = Callable[[int], object]


def written_size(checkpoint: Checkpoint, dtype: torch.dtype | None) -> int:
    """Bytes of all weights in the new model."""
    return sum(rewritten_size(read_header(file), dtype) for file in weight_files(checkpoint))


def write_changed(
    checkpoint: Checkpoint,
    edits: Mapping[StoredPlace, Edit],
    out: Path,
    notes: Mapping[str, str],
    dtype: torch.dtype | None = None,
    tick: Tick = lambda size: None,
) -> list[str]:
    """Write the model to `out`; returns the files of the folder that were left out: other copies of the weights.

    Args:
        notes: added to the metadata of the files that change.
        dtype: of all weights; None: each as it was.
        tick: told of the bytes written.

    Raises:
        UserError: `out` is there already, or room is lacking.
    """
    size = written_size(checkpoint, dtype)
    _check_out(checkpoint, out)
    check_room(out, size)
    changes = _changes(edits)
    if checkpoint.path.is_file():
        header = read_header(checkpoint.path)
        write_atomically(out, lambda path: _rewrite(checkpoint.path, header, path, changes, notes, dtype, tick), size)
        return []
    with new_folder(out, size) as folder:
        return _write_folder(checkpoint, folder, changes, notes, dtype, tick)


def _changes(edits: Mapping[StoredPlace, Edit]) -> dict[Path, dict[str, Change]]:
    """By file and tensor; a fused tensor holds several weights."""
    by_tensor: dict[Path, dict[str, list[tuple[StoredPlace, Edit]]]] = {}
    for place, edit in edits.items():
        by_tensor.setdefault(place.stored.file, {}).setdefault(place.stored.key, []).append((place, edit))
    return {file: {key: _together(found) for key, found in tensors.items()} for file, tensors in by_tensor.items()}


def _together(found: list[tuple[StoredPlace, Edit]]) -> Change:
    def change(tensor: Tensor) -> None:
        for place, edit in found:
            edit(place.weight(tensor))

    return change


def _rewrite(
    source: Path,
    header: FileHeader,
    target: Path,
    changes: Mapping[Path, Mapping[str, Change]],
    notes: Mapping[str, str],
    dtype: torch.dtype | None,
    tick: Tick,
) -> None:
    kept = {name: value for name, value in header.metadata.items() if name not in HASHES}
    rewrite(source, header, target, changes.get(source, {}), {**kept, **notes}, dtype, tick)


def _write_folder(
    checkpoint: Checkpoint,
    folder: Path,
    changes: Mapping[Path, Mapping[str, Change]],
    notes: Mapping[str, str],
    dtype: torch.dtype | None,
    tick: Tick,
) -> list[str]:
    weights, left_out = set(weight_files(checkpoint)), []
    for source in sorted(path for path in checkpoint.path.rglob("*") if path.is_file()):
        name = source.relative_to(checkpoint.path)
        target = folder / name
        if any(part.startswith(".") for part in name.parts):
            continue
        if source not in weights and _is_other_copy(source, name, weights):
            left_out.append(name.as_posix())
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if source in weights and (source in changes or dtype is not None):
            _rewrite(source, read_header(source), target, changes, notes, dtype, tick)
        else:
            shutil.copyfile(source, target)
            tick(rewritten_size(read_header(source), None) if source in weights else 0)
    return left_out


def _is_other_copy(source: Path, name: Path, weights: set[Path]) -> bool:
    """Whether a file holds, or lists, the former weights in another form or precision."""
    if len(name.parts) > 1 and name.parts[0] not in COMPONENTS:
        return False
    if ".index." in source.name and source.suffix == ".json":
        listed = set(read_json(source).get("weight_map", {}).values())
        return not {source.parent / file for file in listed} <= weights
    return source.suffix in WEIGHTS


def _check_out(checkpoint: Checkpoint, out: Path) -> None:
    if checkpoint.path.is_file() and out.suffix != ".safetensors":
        raise UserError(f"--out {out.as_posix()}: the model is a single file, so this must end in .safetensors.")
    if checkpoint.path.is_dir() and out.suffix == ".safetensors":
        raise UserError(f"--out {out.as_posix()}: the model is a folder, so this must be the name of a new folder.")
    if checkpoint.path.is_dir() and out.exists():
        raise UserError(f"--out {out.as_posix()} is there already. Name a new folder.")
    if checkpoint.path.is_file() and out.exists() and out.samefile(checkpoint.path):
        raise UserError(f"--out {out.as_posix()} is the model itself, which is never written over. Name another file.")
