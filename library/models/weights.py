"""Weights on disk: which tensors a file holds, and how they come into a module without a second copy.

Files are memory-mapped. A tensor that already has the wanted type and stays on the CPU is the mapping itself; any other
is converted on the way, and the mapping is renewed every `GROUP_BYTES`, so that pages already read are given back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from library.core.errors import UserError

GROUP_BYTES = 128 << 20
PICKLES = (".ckpt", ".pt", ".pth", ".bin")

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file, not yet read."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: str
    """As safetensors writes it: F32, F16, BF16, I64, ..."""
    begin: int
    """Where its bytes begin after the header."""
    bytes: int

    @property
    def is_float(self) -> bool:
        return "F" in self.dtype


@dataclass(frozen=True)
class Placement:
    """Where a stored tensor goes in a module, and how it is reshaped on the way."""

    name: str
    transform: Callable[[Tensor], Tensor] | None = None


Weights = Mapping[StoredTensor, tuple[Placement, ...]]
"""All tensors of one module."""


@dataclass(frozen=True)
class FileHeader:
    """What a safetensors file says before its data."""

    tensors: dict[str, StoredTensor]
    metadata: dict[str, str] = field(default_factory=dict)


def read_header(file: Path) -> FileHeader:
    """Names, types and shapes of the tensors in a file, without reading them.

    Raises:
        UserError: not there, a pickle, or not a whole safetensors file.
    """
    refuse_pickle(file)
    try:
        with safe_open(file, framework="pt"):
            pass
        with file.open("rb") as stream:
            entries = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    except (SafetensorError, ValueError) as error:
        raise UserError(
            f"'{file}' is not a readable safetensors file ({error}). Was the download cut short? "
            f"The file is {file.stat().st_size:,} bytes long; compare with the page you took it from, and fetch it again."
        ) from error
    except OSError as error:
        raise UserError(f"'{file}' cannot be read: {error}.") from error
    metadata = entries.pop("__metadata__", {})
    return FileHeader({key: _stored(file, key, entry) for key, entry in entries.items()}, metadata)


def refuse_pickle(file: Path) -> None:
    """A pickle can run any program when it is loaded, and cannot be memory-mapped.

    Raises:
        UserError: the file's ending is that of a pickle.
    """
    if file.suffix.lower() in PICKLES:
        raise UserError(
            f"'{file}' is a pickle ('{file.suffix}'), which can run any program hidden in it when it is opened, so it is "
            "not read. Take the .safetensors version of the model, or convert this one where you trust it."
        )


def unchanged(tensors: Iterable[StoredTensor]) -> dict[StoredTensor, tuple[Placement, ...]]:
    """Weights that stand in the file under the module's own names.

    CLIP's table of positions, which old files carry (as numbers of any type, after a merge), is no weight.
    """
    return {
        stored: (Placement(stored.key),)
        for stored in tensors
        if stored.is_float and not stored.key.endswith("position_ids")
    }


def placed_shapes(weights: Weights) -> dict[str, tuple[int, ...]]:
    """The shape that each parameter will have in the module, by its name there."""
    shapes = {}
    for stored, placements in weights.items():
        for placement in placements:
            tensor = torch.empty(stored.shape, device="meta")
            shapes[placement.name] = tuple((placement.transform(tensor) if placement.transform else tensor).shape)
    return shapes


def read_tensors(tensors: Iterable[StoredTensor]) -> Iterator[tuple[StoredTensor, Tensor]]:
    """Each tensor, memory-mapped, file by file in the order of the bytes."""
    for group in _groups(sorted(tensors, key=lambda stored: (stored.file, stored.begin))):
        with safe_open(group[0].file, framework="pt") as opened:
            for stored in group:
                yield stored, opened.get_tensor(stored.key)


def fill(
    module: Module,
    weights: Weights,
    dtype: torch.dtype,
    device: torch.device,
    canonical: Callable[[str], str] = lambda name: name,
) -> Module:
    """Give a module that was built without memory its weights; it comes back frozen and in eval mode.

    Args:
        canonical: maps the module's names and those of `weights` to one spelling.

    Raises:
        UserError: tensors are missing, left over, or of another shape than the module's.
    """
    names = {canonical(name): name for name in module.state_dict()}
    state: dict[str, Tensor] = {}
    surplus: list[str] = []
    for stored, tensor in read_tensors(weights):
        for placement in weights[stored]:
            name = names.get(canonical(placement.name))
            if name is None:
                surplus.append(placement.name)
                continue
            value = tensor if placement.transform is None else placement.transform(tensor)
            state[name] = value.to(device=device, dtype=dtype).contiguous()
    _check_fit(module, state, surplus, next(iter(weights)).file if weights else None)
    module.load_state_dict(state, assign=True)
    return module.to(device=device).requires_grad_(False).eval()


def fingerprint(weights: Weights) -> str:
    """A hash of the names, types and bytes of all these tensors."""
    digest = hashlib.sha256()
    by_name = sorted(weights, key=lambda stored: (stored.file, stored.begin))
    for stored, tensor in read_tensors(by_name):
        digest.update(f"{stored.key} {stored.dtype} {stored.shape}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _stored(file: Path, key: str, entry: dict) -> StoredTensor:
    begin, end = entry["data_offsets"]
    return StoredTensor(file, key, tuple(entry["shape"]), entry["dtype"], begin, end - begin)


def _groups(tensors: Iterable[StoredTensor]) -> Iterator[list[StoredTensor]]:
    group: list[StoredTensor] = []
    size = 0
    for stored in tensors:
        if group and (stored.file != group[0].file or size + stored.bytes > GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(stored)
        size += stored.bytes
    if group:
        yield group


def _check_fit(module: nn.Module, state: Mapping[str, Tensor], surplus: list[str], file: Path | None) -> None:
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    problems = [f"lacks '{name}'" for name in expected if name not in state]
    problems += [f"has a surplus '{name}'" for name in surplus]
    problems += [
        f"has '{name}' of shape {tuple(value.shape)} where {expected[name]} is needed"
        for name, value in state.items()
        if tuple(value.shape) != expected[name]
    ]
    if problems:
        listed = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise UserError(
            f"the weights of {type(module).__name__} in '{file}' do not fit: the file {listed}. "
            "The model is of another architecture, or its config.json belongs to another model."
        )
