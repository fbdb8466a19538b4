"""A safetensors file as bytes that depend on its content alone.

The safetensors library writes the metadata in an order that changes from one call to the next; here it is sorted, so that
the same run leaves the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from safetensors.torch import save
from torch import Tensor

ALIGNMENT = 8


def serialize(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The file: length of the header (8 bytes), header (JSON, padded with spaces), tensors."""
    plain = memoryview(save(dict(tensors)))
    entries = json.loads(bytes(plain[8 : data_start(plain)]))
    header = {"__metadata__": dict(sorted(metadata.items())), **entries} if metadata else entries
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return b"".join((len(text).to_bytes(8, "little"), text, plain[data_start(plain) :]))


def data_start(file: memoryview) -> int:
    """Where the tensors begin."""
    return 8 + int.from_bytes(file[:8], "little")
