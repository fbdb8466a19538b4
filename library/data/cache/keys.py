"""Keys of what is cached: a hash of everything that made it, so that nothing stale can be found."""

from __future__ import annotations

import json
from dataclasses import astuple
from functools import lru_cache
from pathlib import Path

from library.core.hashing import digest
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
    numbers = _numbers(placement)
    return digest("latents", str(LAYOUT), content, fingerprint, numbers, background_color, interpolation, mask)


@lru_cache(maxsize=4096)
def _numbers(placement: Placement) -> str:
    """A million pictures have few different sizes."""
    return json.dumps(astuple(placement))


def text_key(caption: str, fingerprint: str) -> str:
    """Key of an encoded caption; `fingerprint` is that of the text encoders and of how they are used: layer, chunks, emphasis."""
    return digest("text", str(LAYOUT), caption, fingerprint)
