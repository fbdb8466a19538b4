"""The hash of a part's weights, read from a note where the same files were hashed before.

Hashing the encoders of a large model takes seconds, and reads files that a run with warm caches does not read otherwise.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from library.core.errors import UserError
from library.core.files import write_atomically
from library.core.hashing import digest
from library.models.weights import Weights, fingerprint

LARGE = 16 << 20
"""Bytes from which a hash is noted; what is smaller is hashed each time."""

VERSION = 1
"""Of what `fingerprint` computes; to be raised when that changes, since notes of another version are not read."""

SETTLED = 3
"""Seconds that files must have lain untouched before a hash of them is noted: two writes within a tick of the file system's clock
leave the same times."""

TELLS_CHANGES = os.name != "nt"
"""Whether `st_ctime` is the time of the last change. On Windows it is that of creation, and the other times can be set at will."""


def noted_fingerprint(weights: Weights, notes: Path | None) -> str:
    """`fingerprint(weights)`.

    A note is found by the tensors' places, names, types and shapes, and by their files' size, times of change (of content and of
    inode, in nanoseconds) and inode. Whoever writes to a file that has lain untouched for some seconds changes one of them, and
    only of such files a hash is noted. Where the system does not tell changes, every byte is hashed. Deleting notes is always
    safe.

    Args:
        notes: folder of the notes; None: every byte is hashed.
    """
    if notes is None or not TELLS_CHANGES or sum(stored.bytes for stored in weights) < LARGE:
        return fingerprint(weights)
    key, settled = _key(weights), _settled(weights)
    note = notes / key
    try:
        noted = note.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        noted = ""
    if re.fullmatch(r"[0-9a-f]{64}", noted):
        return noted
    found = fingerprint(weights)
    if not settled or _key(weights) != key:
        return found
    try:
        write_atomically(note, lambda temporary: temporary.write_text(found, encoding="utf-8"))
    except UserError:  # a folder that cannot be written costs time in the next run, nothing else
        return found
    return found


def _settled(weights: Weights) -> bool:
    """Whether the files' last changes are some seconds ago."""
    stats = [file.stat() for file in {stored.file for stored in weights}]
    return max(max(stat.st_mtime, stat.st_ctime) for stat in stats) <= time.time() - SETTLED


def _key(weights: Weights) -> str:
    stats = {file: file.stat() for file in sorted({stored.file for stored in weights})}
    files = [
        f"{file.absolute()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino} {stat.st_dev}"
        for file, stat in stats.items()
    ]
    tensors = sorted(
        f"{stored.file.name} {stored.begin} {stored.key} {stored.dtype} {stored.shape}" for stored in weights
    )
    return digest(f"weights {VERSION}", *files, *tensors)
