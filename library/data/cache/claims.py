"""Taking a shard, so that this process alone may add to it, mend it or remove it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from library.data.cache.locks import try_lock, unlock
from library.data.cache.shards import Shard, new_shard

BINARY = getattr(os, "O_BINARY", 0)


@dataclass(frozen=True)
class Claim:
    """A shard that this process alone appends to."""

    shard: Shard
    index: int
    """Its index, open, with its lock."""
    locked: bool
    """Not on disks that know no locks: nobody takes up a shard there."""


def claim(shard: Shard) -> Claim | None:
    """Take a shard; None where another process has it, it is another user's, it is gone, or the disk knows no locks.

    Raises:
        OSError: it cannot be opened for writing, for other reasons.
    """
    try:
        index = os.open(shard.index, os.O_RDWR | BINARY)
    except (FileNotFoundError, PermissionError):
        return None
    try:
        if try_lock(index) == "taken" and _is_still(shard.index, index):
            return Claim(shard, index, locked=True)
    except BaseException:
        os.close(index)
        raise
    os.close(index)
    return None


def is_anothers(shard: Shard) -> bool:
    """Whether it is there, and this user may not add to it or mend it."""
    return shard.index.exists() and not os.access(shard.index, os.W_OK)


def release(claimed: Claim) -> None:
    """Let others have the shard."""
    if claimed.locked:
        unlock(claimed.index)
    os.close(claimed.index)


def remove(claimed: Claim) -> None:
    """Delete a shard and let go of it. Whoever has its data open still reads them.

    Raises:
        OSError: it cannot be removed; on Windows also where another process reads it.
    """
    if os.name == "nt":  # what is open cannot be removed there
        release(claimed)
    try:
        claimed.shard.index.unlink(missing_ok=True)
        claimed.shard.data.unlink(missing_ok=True)
    finally:
        if os.name != "nt":
            release(claimed)


def made_and_claimed(folder: Path) -> Claim:
    """A new shard; its index is there first, so that whoever sees the data sees whose they are.

    Raises:
        OSError: it cannot be made.
    """
    shard = new_shard(folder)
    index = os.open(shard.index, os.O_RDWR | os.O_CREAT | os.O_EXCL | BINARY, 0o666)
    return Claim(shard, index, locked=try_lock(index) == "taken")


def _is_still(path: Path, file: int) -> bool:
    """Whether the path still leads to the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False
