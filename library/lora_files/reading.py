"""LoRA files of any program, read under sd-scripts' names."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from library.core.errors import UserError, UserErrors
from library.lora_files.file import read_lora
from library.lora_files.names.family import recognise_family
from library.lora_files.names.module_names import PEFT_ROOT
from library.lora_files.names.peft_alphas import CONFIG_FILE, HEADER_ENTRY, PeftScales
from library.lora_files.names.styles import DESCRIBED, Style, to_kohya

log = logging.getLogger("dojo")


@dataclass(frozen=True)
class LoRAFile:
    """A LoRA file under sd-scripts' names."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    family: str
    style: Style
    """The names that it has on disk."""


def read_any_style(path: Path, family: str | None = None, keep_strangers: bool = False) -> LoRAFile:
    """A LoRA file under sd-scripts' names, whatever program wrote it; its tensors are mapped into memory.

    Args:
        family: of the model that it is for; None: recognised from the tensors.
        keep_strangers: let tensors through whose names mean nothing here, for networks that know them.

    Raises:
        UserError: it cannot be read, is no LoRA of the SD families, or does not tell its family.
    """
    return renamed(path, *read_lora(path), family, keep_strangers)


def renamed(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    family: str | None,
    keep_strangers: bool = False,
) -> LoRAFile:
    """The same of a file that has been read."""
    try:
        family = family or recognise_family(tensors, metadata)
        converted, style = to_kohya(tensors, family, _scales(path, tensors, metadata), keep_strangers)
    except UserError as error:
        raise UserError(f"{path.as_posix()}: {error}", error.exit_code) from error
    if style != "kohya":
        # their alpha stands in the tensors now
        metadata = {name: value for name, value in metadata.items() if name != HEADER_ENTRY}
    return LoRAFile(converted, dict(metadata), family, style)


def read_for_model(path: Path, family: str, keep_strangers: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a LoRA file for a model of this family; tells where its names are not sd-scripts'.

    Raises:
        UserError: it cannot be read, or is no LoRA of the SD families.
    """
    found = read_any_style(path, family, keep_strangers)
    if found.style != "kohya":
        log.info("%s has the names of %s: read as sd-scripts would name them", path.as_posix(), DESCRIBED[found.style])
    return found.tensors, found.metadata


def check_whole(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse a LoRA whose tensors do not belong together, under sd-scripts' names.

    Raises:
        UserErrors: halves that are missing, ranks that differ, numbers that are not finite.
    """
    mistakes = [*_halves(tensors), *_not_finite(tensors)]
    if mistakes:
        shown = [*mistakes[:5], *([f"and {len(mistakes) - 5} more of the kind"] if len(mistakes) > 5 else [])]
        raise UserErrors([f"{path.as_posix()} is damaged: {mistake}." for mistake in shown])


def _halves(tensors: Mapping[str, Tensor]) -> list[str]:
    mistakes = []
    pairs = {"lora_down.weight": "lora_up.weight", "lora_up.weight": "lora_down.weight"}
    for name, tensor in tensors.items():
        key, _, part = name.partition(".")
        other = tensors.get(f"{key}.{pairs[part]}") if part in pairs else tensor
        if other is None:
            mistakes.append(f"{name} has no {pairs[part]} beside it")
        elif part == "lora_down.weight" and (tensor.dim() not in (2, 4) or tensor.shape[:1] != other.shape[1:2]):
            mistakes.append(
                f"{key}: lora_down is {list(tensor.shape)} and lora_up {list(other.shape)}, whose ranks differ"
            )
        elif part in pairs and not tensor.is_floating_point():
            mistakes.append(f"{name} holds {str(tensor.dtype).removeprefix('torch.')} instead of fractions")
        elif part == "alpha" and tensor.numel() != 1:
            mistakes.append(f"{name} is not one number")
    return mistakes


def _not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    return [f"{name} holds NaN or infinity" for name, tensor in tensors.items() if not is_finite(tensor)]


def is_finite(tensor: Tensor) -> bool:
    """Whether every number is finite."""
    if not tensor.is_floating_point():
        return True
    # PyTorch cannot ask numbers of one byte
    return bool(torch.isfinite(tensor if tensor.element_size() > 1 else tensor.float()).all())


def _scales(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> PeftScales:
    """Alphas that stand outside the tensors: in the header, or for PEFT's own files in its configuration beside them."""
    if HEADER_ENTRY in metadata or not any(name.startswith(PEFT_ROOT) for name in tensors):
        return PeftScales.of_metadata(metadata)
    beside = PeftScales.beside(path)
    if beside is None:
        log.warning(
            "%s comes from PEFT, and its %s is not beside it: alpha is taken to be the rank. If it was another, the LoRA acts "
            "too strongly or weakly; put that file beside it.", path.as_posix(), CONFIG_FILE,
        )  # fmt: skip
    return beside or PeftScales({})
