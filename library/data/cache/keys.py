"""Keys of what is cached: a hash of everything that made it, so that nothing stale can be found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import astuple
from functools import lru_cache
from pathlib import Path

from library.data.pictures.placement import Placement

LAYOUT = 3
"""Raised when entries change their form or meaning, so that older ones are no longer found."""


def cache_folder(cache_dir: str | None) -> Path:
    """Where caches are kept on disk."""
    return Path(cache_dir).expanduser() if cache_dir else Path.home() / ".cache" / "lora-dojo"


def manifest_file(cache_dir: str | None) -> Path:
    """Where it is noted what was seen of pictures and captions."""
    return cache_folder(cache_dir) / "manifest.sqlite"


def latent_key(
    content: str, fingerprint: str, placement: Placement, background_color: str, interpolation: str, mask: str
) -> str:
    """Key of a picture's latents.

    Args:
        content: hash of the picture's bytes.
        fingerprint: of the VAE.
        placement: size, resizing, crop and flip.
        background_color: colour behind transparent pictures.
        interpolation: filter of the resizing.
        mask: hash of the mask's bytes, "alpha", or "" without a mask.
    """
    return digest("latents", content, fingerprint, _numbers(placement), background_color, interpolation, mask)


@lru_cache(maxsize=4096)
def _numbers(placement: Placement) -> str:
    """A million pictures have few different sizes."""
    return json.dumps(astuple(placement))


def text_key(caption: str, fingerprint: str, clip_skip: int | None = None, max_token_length: int | None = None) -> str:
    """Key of an encoded caption; `fingerprint` is that of the text encoders."""
    return digest("text", caption, fingerprint, str(clip_skip), str(max_token_length))


def digest(kind: str, *parts: str) -> str:
    """A hash in which no two different lists of parts meet: each part goes in with its length."""
    words = "".join(f"{len(part.encode())}:{part}" for part in (kind, str(LAYOUT), *parts))
    return hashlib.blake2b(words.encode(), digest_size=20).hexdigest()


def digest_of_many(parts: Iterable[str]) -> str:
    """As `digest`, of as many parts as there are: they are never all in memory."""
    hashed = hashlib.blake2b(digest_size=20)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hashed.update(b"%d:" % len(data) + data)
    return hashed.hexdigest()


def content_hash(data: bytes) -> str:
    """Hash of a file's bytes."""
    return hashlib.blake2b(data, digest_size=20).hexdigest()
