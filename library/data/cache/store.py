"""A store of encoded pictures and captions, keyed by everything that made them.

Nothing stale can be found, because a changed picture, model or setting makes another key; nothing half-written can be read,
and nothing damaged is used, because each entry holds a checksum of itself; and deleting the folder is always safe.
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from torch import Tensor

from library.core.errors import UserError
from library.data.cache.appending import Appender
from library.data.cache.reading import ShardReader
from library.data.cache.shards import Bytes, packed

Tensors = dict[str, Tensor]

TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Types of tensors, as safetensors names them."""


class TensorCache:
    """Named groups of tensors by key, in a folder of shards or, without one, in memory.

    May be sent to other processes: of a folder only its name travels, and where it is held they hold it too, from when they
    get it. Threads may share it, and forked processes too.

    Args:
        folder: where shards are kept; None keeps the entries in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._entries: dict[bytes, bytes] = {}
        self._open()

    def get(self, key: str) -> Tensors | None:
        """The tensors, the caller's own; None where there are none. A damaged entry is annulled and counts as none.

        Raises:
            UserError: a file cannot be read.
        """
        wanted = bytes.fromhex(key)
        if self._reader is None:
            data = self._entries.get(wanted)
            return None if data is None else _tensors(np.frombuffer(bytearray(data), np.uint8))
        payload = self._reader.payload(wanted)
        if payload is None:
            payload = self._fresh_payload(wanted)
        return None if payload is None else _tensors(payload)

    def sizes(self, keys: Sequence[str]) -> npt.NDArray[np.int64]:
        """Bytes of what is under each key, whole or not; 0 where there is nothing. For many keys in one call.

        Raises:
            UserError: the folder cannot be read.
        """
        if self._reader is None:
            return np.array([len(self._entries.get(bytes.fromhex(key), b"")) for key in keys], np.int64)
        self._own()
        self._appender.sync()
        self._reader.refresh()
        return self._reader.lengths(packed(keys))

    def put(self, key: str, tensors: Tensors) -> None:
        """Keep tensors (CPU) under the key: on the disk, and found by others, after `flush` or some seconds.

        Raises:
            UserError: it cannot be written.
        """
        data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        if self._reader is None:
            self._entries[bytes.fromhex(key)] = data
            return
        self._own()
        self._appender.append(bytes.fromhex(key), data)

    def flush(self) -> None:
        """Let everything that was put be on the disk, and others add to what they please.

        Raises:
            UserError: it cannot be written.
        """
        self._own()
        self._appender.close()

    def hold(self) -> bool:
        """Keep the shards open from now on, so that deleting the folder does this run no harm.

        Returns:
            whether none was removed while it was filled; else something may be lacking.

        Raises:
            UserError: a file cannot be written or read.
        """
        if self._reader is None:
            return True
        self.flush()
        self._reader.refresh()
        self._reader.hold()
        lost = self._reader.lost or not all(shard.is_there() for shard in self._appender.filled)
        if lost:
            self._reader.refresh()  # one removal is told of once
        self._reader.lost = False
        self._appender.filled.clear()
        return not lost

    def __len__(self) -> int:
        """Entries that are there now."""
        if self._reader is None:
            return len(self._entries)
        self._reader.refresh()
        return self._reader.entries

    def __getstate__(self) -> dict[str, Any]:
        held = self._reader is not None and self._reader.holds
        return {"folder": self.folder, "_entries": self._entries, "held": held}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.folder, self._entries = state["folder"], state["_entries"]
        self._open()
        if state["held"] and self._reader is not None:
            with suppress(UserError):  # whoever asks for an entry is told
                self._reader.refresh()
                self._reader.hold()

    def _open(self) -> None:
        self._process = os.getpid()
        self._reader = None if self.folder is None else ShardReader(self.folder)
        self._appender = Appender(self.folder or Path())
        weakref.finalize(self, _close, self._appender, self._process)

    def _fresh_payload(self, key: bytes) -> Bytes | None:
        """What this process has put just now, else what others have added meanwhile."""
        assert self._reader is not None
        self._own()
        pending = self._appender.read(key)
        if pending is not None:
            return np.frombuffer(bytearray(pending), np.uint8)
        self._reader.refresh()
        return self._reader.payload(key)

    def _own(self) -> None:
        """In a forked process: leave the shard to the one that took it, and locks to the threads that were not forked."""
        if self._reader is None or os.getpid() == self._process:
            return
        self._process = os.getpid()
        self._reader = self._reader.for_this_process()
        self._appender = Appender(self._reader.folder)
        weakref.finalize(self, _close, self._appender, self._process)


@dataclass(frozen=True)
class Stored:
    """A tensor in an entry's bytes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """Byte of the data."""
    count: int
    """Values."""


@lru_cache(maxsize=1024)
def _layout(header: bytes) -> list[Stored]:
    """The tensors that a safetensors header names; entries of one shape have one header."""
    named = json.loads(header)
    return [
        Stored(
            name, TYPES[it["dtype"]], tuple(it["shape"]), it["data_offsets"][0], int(np.prod(it["shape"], dtype=int))
        )
        for name, it in named.items()
        if name != "__metadata__"
    ]


def _tensors(payload: Bytes) -> Tensors:
    """A safetensors file's tensors, without copying their data: `safetensors.torch.load` copies each."""
    start = 8 + int.from_bytes(payload[:8].tobytes(), "little")
    return {
        each.name: torch.frombuffer(payload, dtype=each.dtype, count=each.count, offset=start + each.start).reshape(
            each.shape
        )
        if each.count
        else torch.empty(each.shape, dtype=each.dtype)
        for each in _layout(payload[8:start].tobytes())
    }


def _close(appender: Appender, process: int) -> None:
    if os.getpid() == process:
        appender.close()
