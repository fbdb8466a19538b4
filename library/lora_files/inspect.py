"""What a LoRA file holds: its kind, its modules, how strong they are, and whether it is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from library.core.errors import UserError
from library.lora_files.file import read_lora
from library.lora_files.kinds import kind_of
from library.lora_files.low_rank.strength import Strength, strength_of
from library.lora_files.names.family import recognise_family
from library.lora_files.names.module_names import of_key
from library.lora_files.names.places import block_name
from library.lora_files.names.styles import Style
from library.lora_files.reading import mistake_in, renamed, tensors_by_site

LAYERS = {
    "attn1": "self-attention",
    "attn2": "cross-attention",
    "self_attn": "self-attention",
    "ff": "feed-forward",
    "mlp": "feed-forward",
    "proj_in": "projections",
    "proj_out": "projections",
    "resnets": "resnet",
    "downsamplers": "resampling",
    "upsamplers": "resampling",
}
"""A part of a module's path -> the kind of layer it belongs to."""


@dataclass(frozen=True, eq=False)
class SiteReport:
    """One module."""

    key: str
    block: str
    """te1, te2, IN00 to OUT11, M00."""
    layer: str
    kind: str
    strength: Strength
    broken: str = ""
    """What is wrong with its tensors; '' where nothing is."""


@dataclass(frozen=True, eq=False)
class FileReport:
    """A LoRA file."""

    path: Path
    size: int
    """Bytes."""
    metadata: Mapping[str, str]
    style: Style
    family: str | None
    doubt: str
    """Why the family is not known; '' where it is."""
    dtypes: Mapping[str, int]
    """Type -> how many numbers of it."""
    sites: list[SiteReport]
    wrong_hashes: list[str]
    """Names of entries whose hash is not that of the content."""

    @property
    def broken(self) -> list[SiteReport]:
        """Modules with NaN, infinity, missing halves or shapes that do not fit."""
        return [site for site in self.sites if site.broken]

    @property
    def negative(self) -> list[SiteReport]:
        """Modules with a negative alpha, whose change is taken away instead of added."""
        return [site for site in self.sites if (site.strength.alpha or 0.0) < 0]


def inspect(path: Path, family: str | None = None) -> FileReport:
    """Look through a LoRA file; its tensors are mapped into memory.

    Args:
        family: where the user says it; None: told from the tensors.

    Raises:
        UserError: it cannot be read, or is no LoRA of the SD families.
    """
    stored, metadata = read_lora(path)
    doubt = ""
    if family is None:
        try:
            family = recognise_family(stored, metadata)
        except UserError as error:
            doubt = str(error)
    file = renamed(path, stored, metadata, family or "sd1")
    dtypes: dict[str, int] = {}
    for tensor in file.tensors.values():
        if tensor.dim():
            name = str(tensor.dtype).removeprefix("torch.")
            dtypes[name] = dtypes.get(name, 0) + tensor.numel()
    return FileReport(
        path=path,
        size=path.stat().st_size,
        metadata=metadata,
        style=file.style,
        family=family,
        doubt=doubt,
        dtypes=dtypes,
        sites=[_report(key, tensors, file.family) for key, tensors in tensors_by_site(file.tensors).items()],
        wrong_hashes=wrong_hashes(path, file.metadata),
    )


def wrong_hashes(path: Path, metadata: Mapping[str, str]) -> list[str]:
    """Those of `sshs_model_hash` and `modelspec.hash_sha256` that are not the SHA-256 of the tensors' bytes."""
    stated = {name: metadata[name] for name in ("sshs_model_hash", "modelspec.hash_sha256") if metadata.get(name)}
    if not stated:
        return []
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return [name for name, hashed in stated.items() if hashed.removeprefix("0x").lower() != found]


def total_norm(sites: Iterable[SiteReport]) -> float:
    """Frobenius norm of all their changes together."""
    return sum((site.strength.norm or 0.0) ** 2 for site in sites) ** 0.5


def energy_by_rank(sites: Iterable[SiteReport]) -> Tensor:
    """Share of the squared norm that every layer cut to rank 1, 2, ... would keep together; empty where there is no LoRA."""
    spectra = [site.strength.energies_R for site in sites if site.strength.energies_R is not None]
    if not spectra:
        return torch.empty(0)
    kept_R = torch.zeros(max(len(spectrum) for spectrum in spectra), dtype=torch.float64)
    for spectrum in spectra:
        kept_R[: len(spectrum)] += spectrum
    total = kept_R.sum()
    return kept_R.cumsum(0) / total if total > 0 else torch.ones_like(kept_R)


def rank_for(shares_R: Tensor, share: float) -> int:
    """The lowest rank that keeps this share."""
    return int((shares_R < share - 1e-12).sum()) + 1


def layer_of(key: str) -> str:
    """The kind of layer that a key belongs to."""
    module = of_key(key)
    parts = () if module is None else module.path.split(".")
    return next((LAYERS[part] for part in reversed(parts) if part in LAYERS), "other")


def _report(key: str, tensors: Mapping[str, Tensor], family: str) -> SiteReport:
    strength, broken = Strength(None, None, None), mistake_in(tensors)
    if not broken:
        try:
            strength = strength_of(tensors)
        except ValueError as error:
            broken = str(error)
    return SiteReport(key, block_name(key, family), layer_of(key), kind_of(tensors), strength, broken)
