"""Reading and writing LoRA files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from library.core.errors import UserError
from library.core.files import write_atomically


def read_lora(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a LoRA file, the tensors mapped into memory rather than read.

    Raises:
        UserError: no such file, or not a whole safetensors file.
    """
    if not path.is_file():
        raise UserError(f"LoRA file {path.as_posix()} does not exist.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"LoRA file {path.as_posix()} cannot be read: {error}. It must be a .safetensors file; "
            "if it was downloaded or copied, do that again."
        ) from error


def save_lora(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], dtype: torch.dtype | None = None
) -> None:
    """Write a LoRA file, whole or not at all, its weights as `dtype` (None: as they are)."""
    stored = {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
        for name, tensor in tensors.items()
    }
    write_atomically(path, lambda temporary: save_file(stored, temporary, dict(metadata)))
