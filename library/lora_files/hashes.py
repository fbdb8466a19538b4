"""Hashes by which other programs recognise a LoRA file, computed before it is written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor

from library.lora_files.serialize import contents, header

LEGACY_OFFSET, LEGACY_LENGTH = 0x100000, 0x10000
"""The bytes of a file, of a LoRA or of a model, that its legacy hash is of: A1111's first."""


def with_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata with `sshs_model_hash`, `sshs_legacy_hash` and `modelspec.hash_sha256` of these tensors.

    As in sd-scripts, the legacy hash is that of a file which holds the `ss_*` metadata alone.
    """
    weights, legacy = hashlib.sha256(), hashlib.sha256()
    beginning = header(tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    legacy.update(_legacy_part(memoryview(beginning), 0))
    position = len(beginning)
    for piece in contents(tensors):
        weights.update(piece)
        legacy.update(_legacy_part(piece, position))
        position += len(piece)
    return {
        **metadata,
        "sshs_model_hash": weights.hexdigest(),
        "sshs_legacy_hash": legacy.hexdigest()[:8],
        "modelspec.hash_sha256": f"0x{weights.hexdigest()}",
    }


def _legacy_part(piece: memoryview, position: int) -> memoryview:
    """What of a piece that begins at `position` lies in the part of the file that the legacy hash is of."""
    return piece[max(0, LEGACY_OFFSET - position) : max(0, LEGACY_OFFSET + LEGACY_LENGTH - position)]
