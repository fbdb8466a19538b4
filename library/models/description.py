"""What a LoRA's metadata says of its base model, in sd-scripts' words."""

from __future__ import annotations

import hashlib
from pathlib import Path

from library.diffusion.process import Prediction
from library.lora_files.hashes import LEGACY_LENGTH, LEGACY_OFFSET
from library.lora_files.metadata import base_version
from library.models.architecture import Family


def model_entries(name: str, family: Family, prediction: Prediction) -> dict[str, str]:
    """The entries on the base model; hashes only where it is one file."""
    path = Path(name).expanduser()
    return {
        "ss_base_model_version": base_version(family, prediction == "v"),
        "ss_v2": str(family == "sd2"),
        "ss_sd_model_name": shown_name(name),
        **_hashes(path, "ss_sd_model_hash", "ss_new_sd_model_hash"),
    }


def vae_entries(name: str | None) -> dict[str, str]:
    """The entries on a VAE that is not the model's own."""
    if name is None:
        return {}
    path = Path(name).expanduser()
    return {
        "ss_vae_name": shown_name(name),
        **_hashes(path, "ss_vae_hash", "ss_new_vae_hash"),
    }


def shown_name(name: str) -> str:
    """What strangers are told of a model: of a path the last part, of a name on the hub all of it."""
    path = Path(name).expanduser()
    return path.name if path.exists() or path.is_absolute() else name


def legacy_hash(file: Path) -> str:
    """A1111's first model hash: eight digits of the SHA-256 of 64 kB in the file's second megabyte."""
    with file.open("rb") as stream:
        stream.seek(LEGACY_OFFSET)
        return hashlib.sha256(stream.read(LEGACY_LENGTH)).hexdigest()[:8]


def sha256(file: Path) -> str:
    """The SHA-256 of a whole file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _hashes(path: Path, legacy: str, full: str) -> dict[str, str]:
    return {legacy: legacy_hash(path), full: sha256(path)} if path.is_file() else {}
