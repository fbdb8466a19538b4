"""Hashes by which other programs recognise a LoRA file, computed before it is written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor

from library.lora_files.serialize import data_start, serialize

LEGACY_OFFSET, LEGACY_LENGTH = 0x100000, 0x10000


def with_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata with `sshs_model_hash`, `sshs_legacy_hash` and `modelspec.hash_sha256` of these tensors.

    As in sd-scripts, the legacy hash is that of a file which holds the `ss_*` metadata alone.
    """
    file = memoryview(serialize(tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")}))
    weights = hashlib.sha256(file[data_start(file) :]).hexdigest()
    legacy = hashlib.sha256(file[LEGACY_OFFSET : LEGACY_OFFSET + LEGACY_LENGTH]).hexdigest()[:8]
    return {
        **metadata,
        "sshs_model_hash": weights,
        "sshs_legacy_hash": legacy,
        "modelspec.hash_sha256": f"0x{weights}",
    }
