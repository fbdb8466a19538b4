"""A store of encoded pictures and captions, keyed by everything that made them.

Nothing stale can be found, because a changed picture, model or setting makes another key; nothing half-written can be
read, because files are moved into place whole; nothing damaged is used, because each file holds a checksum of itself; and
deleting the folder is always safe.
"""

from __future__ import annotations

import logging
import zlib
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from library.core.errors import UserError
from library.core.files import write_atomically

log = logging.getLogger("dojo")

CHECKSUM = b'"checksum":"'
"""What stands before the 8 digits of the checksum, in the metadata of an entry's header."""

Tensors = dict[str, Tensor]


class TensorCache:
    """Named groups of tensors by key, in a folder or, without one, in memory. May be sent to other processes.

    Args:
        folder: where files are kept (`folder/ab/abcd....safetensors`); None keeps them in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._entries: dict[str, bytes] = {}

    def get(self, key: str) -> Tensors | None:
        """The tensors, or None where there are none; a damaged file is removed and counts as none.

        Raises:
            UserError: the file cannot be read or removed.
        """
        if self.folder is None:
            data = self._entries.get(key)
            return None if data is None else load(data)
        path = self._path(key)
        try:
            data = path.read_bytes()
            if _is_whole(data):
                return load(data)
            log.warning("cache file %s is damaged; it is made anew", path)
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(
                f"cache file {path}: {error.strerror or error}. Delete the folder {self.folder}, which is always safe, or "
                "name another cache_dir."
            ) from error
        return None

    def holds(self, key: str) -> bool:
        """Whether there is something under the key, whole or not."""
        return key in self._entries if self.folder is None else self._path(key).is_file()

    def put(self, key: str, tensors: Tensors) -> None:
        """Keep tensors (CPU) under the key.

        Raises:
            UserError: the file cannot be written.
        """
        data = _sealed(save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"checksum": "0" * 8}))
        if self.folder is None:
            self._entries[key] = data
            return
        path = self._path(key)
        try:
            write_atomically(path, lambda temporary: temporary.write_bytes(data), len(data))
        except UserError as error:
            raise UserError(
                f"{error} For caches: name another cache_dir, or cache in memory (cache_latents instead of cache_latents_to_disk).",
                error.exit_code,
            ) from error

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.safetensors"


def _sealed(data: bytes) -> bytes:
    """The entry with its checksum in the place of the zeros."""
    place = data.index(CHECKSUM) + len(CHECKSUM)
    return data[:place] + _checksum(data, place) + data[place + 8 :]


def _is_whole(data: bytes) -> bool:
    """Whether every byte is as it was written."""
    place = data.find(CHECKSUM) + len(CHECKSUM)
    return data[place : place + 8] == _checksum(data, place)


def _checksum(data: bytes, place: int) -> bytes:
    """CRC-32 of everything but the 8 digits at `place`, which it is written in; tells every flipped bit."""
    view = memoryview(data)
    return b"%08x" % zlib.crc32(view[place + 8 :], zlib.crc32(view[:place]))
