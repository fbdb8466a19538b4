"""Which model makes the pictures, told by its content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from library.data.cache.keys import cache_folder
from library.inference.sample import ALL_PARTS
from library.models.base import DiffusionModel
from library.models.description import sha256


def identity(model: DiffusionModel, loras: Sequence[tuple[Path, float]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Hashes of the model's parts and of the LoRAs on it, with the settings that change what they make.

    Args:
        loras: files and strengths.
        settings: such as the precision.
    """
    parts: dict[str, str] = {part: model.fingerprint(part, cache_folder(None) / "hashes") for part in ALL_PARTS}
    return {**settings, **parts, "loras": [f"{sha256(file)}:{strength:g}" for file, strength in loras]}
