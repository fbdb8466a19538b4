"""A safetensors file written anew with some of its tensors changed, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from library.core.errors import UserError
from library.lora_files.serialize import TYPES, as_bytes, encoded
from library.models.weights import FileHeader, StoredTensor, read_tensors

CHUNK = 16 << 20

FRACTIONS = {TYPES[dtype]: dtype for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)}
"""Types that can be changed for another, by safetensors' names. Those of a byte are kept as they are."""

Change = Callable[[Tensor], None]
"""Changes an fp32 copy of a stored tensor in place."""


def rewritten_size(header: FileHeader, dtype: torch.dtype | None) -> int:
    """Bytes of the tensors in the new file."""
    return sum(_bytes(stored, dtype) for stored in header.tensors.values())


def rewrite(
    source: Path,
    header: FileHeader,
    target: Path,
    changes: Mapping[str, Change],
    metadata: Mapping[str, str],
    dtype: torch.dtype | None = None,
    tick: Callable[[int], object] = lambda size: None,
) -> None:
    """Write `target`, in which every tensor that nothing changes has the bytes that it has in `source`.

    Args:
        header: of the source.
        changes: by name; each tensor is changed in fp32 and rounded once.
        dtype: of all fractions; None: each as it was.
        tick: told of the bytes written.

    Raises:
        UserError: a changed value is too large for the type.
    """
    ordered = sorted(header.tensors.values(), key=lambda stored: stored.begin)
    converted = [stored for stored in ordered if stored.key in changes or _stored_as(stored, dtype) != stored.dtype]
    computed = read_tensors(converted)
    with source.open("rb") as old, target.open("wb") as new:
        data = 8 + int.from_bytes(old.read(8), "little")
        new.write(_header(ordered, metadata, dtype))
        waiting = {stored.key for stored in converted}
        for stored in ordered:
            if stored.key in waiting:
                _, tensor = next(computed)
                new.write(as_bytes(_changed(stored, tensor, changes.get(stored.key), dtype)))
            else:
                old.seek(data + stored.begin)
                _copy(old, new, stored.bytes)
            tick(_bytes(stored, dtype))


def _changed(stored: StoredTensor, tensor: Tensor, change: Change | None, dtype: torch.dtype | None) -> Tensor:
    wanted = tensor.dtype if _stored_as(stored, dtype) == stored.dtype else dtype
    value = tensor.to(torch.float32, copy=True) if change is not None else tensor
    if change is not None:
        change(value)
    rounded = value.to(wanted)
    if not rounded.float().isfinite().all() and tensor.float().isfinite().all():
        raise UserError(
            f"'{stored.key}' has values up to {value.abs().max():.3g}, which do not fit into {str(wanted).removeprefix('torch.')}: "
            "give --dtype bf16 or fp32, or lower the strengths."
        )
    return rounded


def _header(ordered: list[StoredTensor], metadata: Mapping[str, str], dtype: torch.dtype | None) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    begin = 0
    for stored in ordered:
        end = begin + _bytes(stored, dtype)
        entries[stored.key] = {
            "dtype": _stored_as(stored, dtype),
            "shape": stored.shape,
            "data_offsets": [begin, end],
        }
        begin = end
    return encoded(entries)


def _stored_as(stored: StoredTensor, dtype: torch.dtype | None) -> str:
    return TYPES[dtype] if dtype is not None and stored.dtype in FRACTIONS else stored.dtype


def _bytes(stored: StoredTensor, dtype: torch.dtype | None) -> int:
    if dtype is None or stored.dtype not in FRACTIONS:
        return stored.bytes
    return stored.bytes // FRACTIONS[stored.dtype].itemsize * dtype.itemsize


def _copy(old: BinaryIO, new: BinaryIO, size: int) -> None:
    while size:
        chunk = old.read(min(CHUNK, size))
        assert chunk, "the header promised more"
        new.write(chunk)
        size -= len(chunk)
