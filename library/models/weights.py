"""Weights on disk: which tensors a file holds, and how they come into a module without a second copy.

Files are memory-mapped. A tensor that already has the wanted type and stays on the CPU is the mapping itself; any other
is converted on the way, and the mapping is renewed every `GROUP_BYTES`, so that pages already read are given back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from library.core.errors import UserError
from library.core.pickles import refuse_pickle
from library.models.quantised import Packing, fill_quantised, quantisable, quantise

GROUP_BYTES = 128 << 20
PACKED = ("F4", "F6")
"""Types of less than a byte, several values in one element: their shapes say nothing without the program that packed them."""

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
    metadata = entries.pop("__metadata__", None) or {}
    if packed := sorted({entry["dtype"] for entry in entries.values() if entry["dtype"].startswith(PACKED)}):
        raise UserError(f"'{file}' holds weights in {', '.join(packed)}, which are not read. Take an fp16 version.")
    return FileHeader({key: _stored(file, key, entry) for key, entry in entries.items()}, metadata)


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
    packing: Packing | None = None,
    home: torch.device | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Module:
    """Give a module that was built without memory its weights; it comes back frozen and in eval mode.

    Args:
        dtype: type of the weights, but for those that are packed.
        device: where the weights are packed and, unless `home` says otherwise, kept.
        canonical: maps the module's names and those of `weights` to one spelling.
        packing: how weights are packed, each as soon as it is read, so that they are never all there whole.
        memory_format: order in memory of the convolutions' weights.

    Raises:
        UserError: tensors are missing, left over, or of another shape than the module's.
    """
    home = home or device
    names = {canonical(name): name for name in module.state_dict()}
    _check_fit(module, weights, names, canonical)
    layers = {} if packing is None else {f"{path}.weight": layer for path, layer in quantisable(module)}
    if packing is not None:
        for layer in layers.values():  # all room at once: between what comes and goes it would leave holes
            quantise(layer, packing, packing.empty(layer.weight.shape, home))
    state: dict[str, Tensor] = {}
    turned = {stored for stored in weights if memory_format == torch.channels_last and _is_turned(stored)}
    # apart from the others, which may keep their mapping, so that theirs is given back
    for stored, tensor in chain(read_tensors(turned), read_tensors(weights.keys() - turned)):
        for placement in weights[stored]:
            name = names[canonical(placement.name)]
            value = tensor if placement.transform is None else placement.transform(tensor)
            if packing is not None and name in layers:
                fill_quantised(layers[name], packing.pack(value.to(device, torch.float32)))
            else:
                value = value.to(device=home, dtype=dtype)
                state[name] = value.contiguous(
                    memory_format=memory_format if stored in turned else torch.contiguous_format
                )
    module.load_state_dict(state, assign=True, strict=False)  # what is packed is in its place already
    return module.to(device=home).requires_grad_(False).eval()


def _is_turned(stored: StoredTensor) -> bool:
    """Whether the order of the channels in memory matters: not for 1x1 convolutions."""
    return len(stored.shape) == 4 and stored.shape[2:] != (1, 1)


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


def _check_fit(module: nn.Module, weights: Weights, names: Mapping[str, str], canonical: Callable[[str], str]) -> None:
    """Compare the headers with the module; nothing is read.

    Args:
        names: canonical name -> the module's.
    """
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    found = {names.get(canonical(name), name): shape for name, shape in placed_shapes(weights).items()}
    problems = [f"lacks '{name}'" for name in expected if name not in found]
    problems += [f"has a surplus '{name}'" for name in found if name not in expected]
    problems += [
        f"has '{name}' of shape {shape} where {expected[name]} is needed"
        for name, shape in found.items()
        if shape != expected.get(name, shape)
    ]
    if problems:
        file = next(iter(weights)).file if weights else None
        listed = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise UserError(
            f"the weights of {type(module).__name__} in '{file}' do not fit: the file {listed}. "
            "The model is of another architecture, or its config.json belongs to another model."
        )
