"""The hash of a part's weights, read from a note where the same files were hashed before.

Hashing the encoders of a large model takes seconds, and reads files that a run with warm caches does not read otherwise.
"""

from __future__ import annotations

import re
from pathlib import Path

from library.core.files import write_atomically
from library.data.cache import digest
from library.models.weights import Weights, fingerprint

LARGE = 16 << 20
"""Bytes from which a hash is noted; what is smaller is hashed each time."""


def noted_fingerprint(weights: Weights, notes: Path | None) -> str:
    """`fingerprint(weights)`.

    A note is found by the tensors' places, names, types and shapes, and by their files' size, times of change (of content and of
    inode, in nanoseconds) and inode: whoever writes to a file changes one of them. Deleting notes is always safe.

    Args:
        notes: folder of the notes; None: every byte is hashed.
    """
    if notes is None or sum(stored.bytes for stored in weights) < LARGE:
        return fingerprint(weights)
    note = notes / _key(weights)
    try:
        noted = note.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        noted = ""
    if re.fullmatch(r"[0-9a-f]{64}", noted):
        return noted
    found = fingerprint(weights)
    try:
        write_atomically(note, lambda temporary: temporary.write_text(found, encoding="utf-8"))
    except OSError:  # a folder that cannot be written costs time in the next run, nothing else
        return found
    return found


def _key(weights: Weights) -> str:
    stats = {file: file.stat() for file in sorted({stored.file for stored in weights})}
    files = [
        f"{file.absolute()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino} {stat.st_dev}"
        for file, stat in stats.items()
    ]
    tensors = sorted(
        f"{stored.file.name} {stored.begin} {stored.key} {stored.dtype} {stored.shape}" for stored in weights
    )
    return digest("weights", *files, *tensors)
