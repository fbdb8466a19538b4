"""Models, VAEs and LoRAs in pickles: their tensors are taken out once, into a safetensors file that is used from then on.

PyTorch's reader for weights alone builds tensors, and plain tables and lists, and refuses every other name in the file: nothing
in it is run. What it leaves to a hostile file is to ask for more memory than there is; the checks here are for that.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from library.config.schema import Config
from library.core.errors import UserError
from library.core.files import write_atomically
from library.core.pickles import is_pickle
from library.data.cache import cache_folder

log = logging.getLogger("dojo")

MOST_GROWTH = 2
"""Bytes of tensors for one of the file: tensors may share their numbers, but a few numbers may claim to be billions."""


_UNREADABLE = (
    "'{file}' is not a readable PyTorch file ({why}). Was the download cut short? Take the .safetensors version."
)


class LeftByTraining:
    """Stands for a class that checkpoints of the original trainer name and that nothing here needs."""


HARMLESS = [
    (LeftByTraining, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
    (LeftByTraining, "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint"),
]


def without_pickles(config: Config) -> Config:
    """The configuration with each pickle that it names replaced by the safetensors file of its tensors.

    As it is, where `allow_pickle` is false: reading a pickle is then refused.

    Raises:
        UserError: a pickle cannot be read without running what is in it, or holds no tensors.
    """
    if not config.model.allow_pickle:
        return config
    folder, model, network = cache_folder(config.data.cache_dir), config.model, config.network
    base = readable(model.pretrained_model_name_or_path, folder)
    weights = network.network_weights and readable(network.network_weights, folder)
    merged = [readable(name, folder) for name in network.base_weights]
    return replace(
        config,
        model=replace(model, pretrained_model_name_or_path=base, vae=model.vae and readable(model.vae, folder)),
        network=replace(network, network_weights=weights, base_weights=merged),
    )


def readable(name: str, caches: Path) -> str:
    """The name of a file, folder or model on the hub; where it is a pickle, that of its safetensors file.

    Args:
        caches: folder of the caches.

    Raises:
        UserError: as `safetensors_of`.
    """
    file = Path(name).expanduser()
    return str(safetensors_of(file, caches / "pickles")) if is_pickle(name) and file.is_file() else name


def safetensors_of(file: Path, folder: Path) -> Path:
    """The safetensors file that holds a pickle's tensors, found by the pickle's content or made now.

    Args:
        folder: where such files are kept.

    Raises:
        UserError: the pickle cannot be read without running what is in it, or holds no tensors.
    """
    stat = file.stat()
    made = folder / _content(file, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) / f"{file.stem}.safetensors"
    if not made.is_file():
        tensors = read_tensors(file)
        write_atomically(made, lambda temporary: save_file(tensors, temporary))
        log.warning("'%s': its tensors are now in '%s'. Name that file to start sooner.", file, made)
    return made


@cache
def _content(file: Path, *state: int) -> str:
    """The hash of a file's bytes; computed once in a run for each state of the file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a pickle by name, those under "state_dict" where it has one; mapped into memory where the file allows it.

    Raises:
        UserError: it cannot be read without running what is in it, or holds no tensors.
    """
    try:
        mapped = zipfile.is_zipfile(file)
        if mapped:
            _refuse_compression(file)
        with torch.serialization.safe_globals(HARMLESS):  # type: ignore[arg-type]
            content: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        # the rest of PyTorch's message advises to open the file without any care
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked is None:
            raise UserError(_UNREADABLE.format(file=file, why="its content is none of theirs")) from error
        raise UserError(
            f"'{file}' holds more than tensors ({asked[1]}), and reading that could run a program, so it is not read. "
            "Take the .safetensors version."
        ) from error
    except Exception as error:  # a damaged file may lead the reader anywhere
        raise UserError(_UNREADABLE.format(file=file, why=f"{type(error).__name__}: {error}")) from error
    inner = content.get("state_dict", content) if isinstance(content, Mapping) else content
    named = inner.items() if isinstance(inner, Mapping) else ()
    tensors = {name: each.detach() for name, each in named if isinstance(name, str) and isinstance(each, Tensor)}
    _check(tensors, file)
    return _apart(tensors)


def _refuse_compression(file: Path) -> None:
    """PyTorch stores without compressing; what is compressed may be made to fill the memory."""
    with zipfile.ZipFile(file) as archive:
        packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise UserError(f"'{file}' is compressed ({packed[0]}), which PyTorch's own files are not, so it is not read.")


def _check(tensors: Mapping[str, Tensor], file: Path) -> None:
    if not tensors:
        raise UserError(f"'{file}' holds no tensors by name, so it is no model, VAE or LoRA.")
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise UserError(f"'{file}' holds '{name}' in a form that is not read. Take the .safetensors version.")
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if size > MOST_GROWTH * file.stat().st_size:
        raise UserError(
            f"'{file}' claims {size:,} bytes of tensors, more than {MOST_GROWTH} times its own size; it is damaged."
        )


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in a row and each with memory of its own, as safetensors wants them; copied only where they are not."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        is_whole = tensor.is_contiguous() and tensor.nbytes == tensor.untyped_storage().nbytes()
        apart[name] = tensor if is_whole and tensor.data_ptr() not in seen else tensor.clone().contiguous()
        seen.add(tensor.data_ptr())
    return apart
