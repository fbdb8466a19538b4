"""Hashes that files, settings and data are known by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def content_hash(data: bytes) -> str:
    """Hash of a file's bytes."""
    return hashlib.blake2b(data, digest_size=20).hexdigest()


def digest(*parts: str) -> str:
    """A hash in which no two different lists of parts meet: each part goes in with its length."""
    return digest_of_many(parts)


def digest_of_many(parts: Iterable[str]) -> str:
    """As `digest`, of as many parts as there are: they are never all in memory."""
    hashed = hashlib.blake2b(digest_size=20)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hashed.update(b"%d:" % len(data) + data)
    return hashed.hexdigest()
