"""A safetensors file as bytes that depend on its content alone, piece by piece, so that a large one is never in memory twice.

The safetensors library writes the metadata in an order that changes from one call to the next; here it is sorted, so that
the same run leaves the same bytes. All else is as the library writes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

ALIGNMENT = 8

TYPES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.float8_e5m2: "F8_E5M2", torch.float8_e4m3fn: "F8_E4M3",
    torch.int16: "I16", torch.uint16: "U16", torch.float16: "F16", torch.bfloat16: "BF16", torch.int32: "I32",
    torch.uint32: "U32", torch.float32: "F32", torch.complex64: "C64", torch.float64: "F64", torch.int64: "I64",
    torch.uint64: "U64",
}  # fmt: skip
"""Names of the types in the file, in the library's order: the last come first in a file, so that each tensor is aligned."""


def header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Length of the header (8 bytes) and header (JSON, padded with spaces)."""
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    begin = 0
    for name in in_order(tensors):
        tensor = tensors[name]
        end = begin + tensor.nbytes
        entries[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    return encoded(entries)


def encoded(entries: Mapping[str, object]) -> bytes:
    """A header with these entries."""
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def contents(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    """The bytes of each tensor, in the order of the file."""
    for name in in_order(tensors):
        yield as_bytes(tensors[name])


def as_bytes(tensor: Tensor) -> memoryview:
    """A tensor's values as they stand in a file."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def in_order(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names as the file has them."""
    order = {dtype: -place for place, dtype in enumerate(TYPES)}
    return sorted(tensors, key=lambda name: (order[tensors[name].dtype], name))
