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
from library.lora_files.low_rank.factors import PLAIN, alpha_in_file, factors_in_file
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
    found = {key: mistake_in(module) for key, module in tensors_by_site(tensors).items()}
    mistakes = [f"{key}: {mistake}" for key, mistake in found.items() if mistake]
    if mistakes:
        shown = [*mistakes[:5], *([f"and {len(mistakes) - 5} more of the kind"] if len(mistakes) > 5 else [])]
        raise UserErrors([f"{path.as_posix()} is damaged: {mistake}." for mistake in shown])


def tensors_by_site(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """A LoRA file's tensors by site: {"lora_unet_...": {"lora_down.weight": ...}}."""
    by_site: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        key, _, rest = name.partition(".")
        by_site.setdefault(key, {})[rest] = tensor
    return by_site


def mistake_in(module: Mapping[str, Tensor]) -> str:
    """Why the tensors of one module (names after its key) are refused; '' where nothing is wrong with them."""
    not_finite = [part for part, tensor in module.items() if not is_finite(tensor)]
    if not_finite:
        return f"{', '.join(not_finite)} holds NaN or infinity"
    if "lora_up.weight" in module and "lora_down.weight" not in module:
        return "lora_down.weight is missing"
    try:
        # the two factors of DoRA and of Tucker's form have to fit as well
        factors_in_file({part: module[part] for part in PLAIN & module.keys()})
        alpha_in_file(module)
    except ValueError as error:
        return str(error)
    return ""


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
