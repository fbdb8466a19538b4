"""Models, VAEs and LoRAs in pickles: their tensors are taken out once, into a safetensors file that is used from then on.

PyTorch's reader for weights alone builds tensors, plain tables and lists, and a few types more: nothing in the file is run. What
it leaves to a hostile file is to ask for more memory than there is: a few hundred bytes may name a type that makes gigabytes of them.
So the names in the file are looked at first, and only those that files of weights need are let through.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from library.config.schema import Config
from library.core.disk import system_error
from library.core.documents import UNUSABLE
from library.core.errors import UserError
from library.core.files import write_atomically
from library.core.memory import is_out_of_memory
from library.core.pickles import is_pickle
from library.data.cache.keys import cache_folder

log = logging.getLogger("dojo")

MOST_GROWTH = 2
"""Bytes of tensors for one of the file: tensors may share their numbers, but a few numbers may claim to be billions."""

ZIP = b"PK\3\4"
"""How a file begins that PyTorch opens as a zip archive, as it has written them since 1.6."""

PICKLES_IN_OLD = 5
"""One behind the other in PyTorch's older files, before the numbers: three about the format, the content, the storages' names."""

NEEDED = re.compile(
    r"collections\.OrderedDict|torch\._utils\._rebuild_(tensor|tensor_v2|tensor_v3|parameter)|torch\.storage\.UntypedStorage|"
    r"torch\.(\w+Storage|device|b?float\d+\w*|u?int\d+|bool)"
)
"""Module and name of what weights, and the numbers and lists beside them, are made of."""

DTYPES = frozenset(
    {
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.bool,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8,
    }
)  # fmt: skip
"""Types of tensors that are taken out: whole numbers of bytes, and no complex numbers."""

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
        write_atomically(made, lambda temporary: _write(tensors, temporary, file))
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
        mapped = _look_through(file)
        with torch.serialization.safe_globals(HARMLESS):  # type: ignore[arg-type]
            content: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except UserError:
        raise
    except pickle.UnpicklingError as error:  # PyTorch's message advises to open the file without any care
        raise UserError(_UNREADABLE.format(file=file, why="its content is none of theirs")) from error
    except Exception as error:  # a damaged file may lead the reader anywhere
        if is_out_of_memory(error):
            raise
        raise UserError(_UNREADABLE.format(file=file, why=f"{type(error).__name__}: {error}")) from error
    inner = content.get("state_dict", content) if isinstance(content, Mapping) else content
    named = inner.items() if isinstance(inner, Mapping) else ()
    tensors = {name: each.detach() for name, each in named if isinstance(name, str) and isinstance(each, Tensor)}
    _check(tensors, file)
    return _apart(tensors)


def _look_through(file: Path) -> bool:
    """Look at all that PyTorch will unpickle, without unpickling it. Returns whether the file is a zip archive.

    Raises:
        UserError: it is compressed, or names more than weights need.
    """
    with file.open("rb") as stream:
        if stream.read(len(ZIP)) != ZIP:
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
                for _ in range(PICKLES_IN_OLD):
                    _refuse_names(mapping, file)
            return False
        with zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
            # PyTorch stores without compressing; what is compressed may be made to fill the memory.
            if packed := [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]:
                raise UserError(
                    f"'{file}' is compressed ({packed[0]}), which PyTorch's own files are not, so it is not read."
                )
            for entry in entries:
                if entry.filename.endswith(".pkl"):
                    with archive.open(entry) as pickled:
                        _refuse_names(pickled, file)
    return True


def _refuse_names(pickled: IO[bytes] | mmap.mmap, file: Path) -> None:
    """Go through one pickle, to its end."""
    harmless = {name for _, name in HARMLESS}
    for opcode, argument, _ in pickletools.genops(pickled):  # type: ignore[arg-type]  # it reads, and no more
        if opcode.name != "GLOBAL":
            continue
        name = str(argument).replace(" ", ".")
        if name not in harmless and not NEEDED.fullmatch(name):
            raise UserError(
                f"'{file}' holds more than weights ({name}), and reading that could run a program or fill "
                "the memory, so it is not read. Take the .safetensors version."
            )


def _write(tensors: dict[str, Tensor], path: Path, file: Path) -> None:
    """Write the safetensors file of a pickle's tensors, and see that it opens: what is in the cache is taken for whole."""
    try:
        save_file(tensors, path)
        with safe_open(path, framework="pt"):
            pass
    except SafetensorError as error:
        if system_error(error) is not None:
            raise
        raise UserError(
            f"the tensors of '{file}' do not go into a safetensors file ({error}). Take the .safetensors version."
        ) from error


def _check(tensors: Mapping[str, Tensor], file: Path) -> None:
    if not tensors:
        raise UserError(f"'{file}' holds no tensors by name, so it is no model, VAE or LoRA.")
    for name, tensor in tensors.items():
        if name == "__metadata__" or UNUSABLE.search(name):
            raise UserError(f"'{file}' holds a tensor by the name {name!a}, which none can have; it is damaged.")
        if tensor.layout != torch.strided or tensor.dtype not in DTYPES or tensor.device.type != "cpu":
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
