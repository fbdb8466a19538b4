"""Reading and writing LoRA files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from library.core.errors import UserError
from library.core.files import write_atomically
from library.core.pickles import refuse_pickle
from library.lora_files.hashes import with_hashes
from library.lora_files.serialize import contents, header

FINE = (".dora_scale", ".rescale")
"""Half precision would round these numbers, which lie close to where they began, about as far as training moves them."""


def read_lora(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a LoRA file, the tensors mapped into memory rather than read.

    Raises:
        UserError: no such file, a folder, a pickle, not a whole safetensors file, or one without tensors.
    """
    if path.is_dir():
        raise UserError(f"{path.as_posix()} is a folder. Name the LoRA file in it, which ends in .safetensors.")
    if not path.is_file():
        raise UserError(f"LoRA file {path.as_posix()} does not exist.")
    refuse_pickle(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:  # or a type or shape that PyTorch lacks
        raise UserError(
            f"LoRA file {path.as_posix()} cannot be read: {error}. It must be a .safetensors file; "
            "if it was downloaded or copied, do that again."
        ) from error
    if not tensors:
        raise UserError(
            f"LoRA file {path.as_posix()} is empty: it holds no tensors. Take another file, or write it again."
        )
    return tensors, metadata


def save_lora(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], dtype: torch.dtype | None = None
) -> None:
    """Write a LoRA file with its hashes, whole or not at all, its weights as `dtype` (None: as they are).

    Factors of whole rows and columns are few and stay as they are.
    """
    stored = {name: _stored(tensor, None if name.endswith(FINE) else dtype) for name, tensor in tensors.items()}
    beginning = header(stored, with_hashes(stored, metadata))

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(beginning)
            file.writelines(contents(stored))

    write_atomically(path, write, len(beginning) + sum(tensor.nbytes for tensor in stored.values()))


def _stored(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
