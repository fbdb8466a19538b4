"""Our kernels for CPUs with AVX512-BF16: built once with the machine's C compiler, called on PyTorch's own threads.

Attention at 4096 tokens takes PyTorch's kernel more than twice as long, products with few rows a quarter longer
(`benchmarks/parts.py`). Without a compiler, or on another processor, PyTorch's kernels are used.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from library.core.errors import UserError
from library.core.files import write_atomically

log = logging.getLogger("dojo")

FOLDER = Path(__file__).parent
SOURCES = ("attention.c", "matmul.c")
FLAGS = (
    "-O3",
    "-fno-strict-aliasing",
    "-mavx512f",
    "-mavx512bw",
    "-mavx512vl",
    "-mavx512bf16",
    "-mfma",
    "-fno-math-errno",
    "-fPIC",
    "-shared",
)
TYPES = {torch.bfloat16: 0, torch.float32: 1}
"""The `Type`s of tiles.h."""
COMPILERS = ("cc", "gcc", "clang")


def are_for(x: Tensor) -> bool:
    """Whether the kernels can compute with such a tensor here; not in what torch.compile traces, which cannot look into them."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype not in TYPES:
        return False
    return library() is not None


def call(name: str, what: ctypes.Structure, *tensors: Tensor) -> None:
    """Call a kernel on as many threads as PyTorch uses.

    Args:
        what: its first argument; the tensors are the last ones.

    Raises:
        MemoryError: memory is short.
    """
    pointers = (ctypes.c_void_p(each.data_ptr()) for each in tensors)
    if getattr(library(), name)(ctypes.byref(what), torch.get_num_threads(), *pointers):
        raise MemoryError(f"{name}: out of memory")


@cache
def library() -> ctypes.CDLL | None:
    """The kernels, built if they are not yet; None where they cannot be."""
    if not torch.cpu._is_avx512_bf16_supported():
        return None
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    try:
        built = _folder() / f"kernels-{_digest()}.so"
        if not built.exists() and compiler is None:
            log.warning(
                "no C compiler (%s) is here to build the kernels for this CPU, so PyTorch's are used, which take about twice as "
                "long for the attention of large pictures. Install one, gcc say.",
                ", ".join(COMPILERS),
            )
            return None
        if not built.exists():
            write_atomically(built, lambda path: _build(str(compiler), path))
        return ctypes.CDLL(str(built))
    except (subprocess.SubprocessError, OSError, RuntimeError, UserError) as error:
        log.warning(
            "the kernels for this CPU cannot be used, so PyTorch's slower ones are: %s. They are built in ~/.cache/lora-dojo, or where "
            "XDG_CACHE_HOME says.",
            _reason(error),
        )
        return None


def _folder() -> Path:
    """
    Raises:
        RuntimeError: this user has no home.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lora-dojo" / "kernels"


def _digest() -> str:
    """Of what the kernels are built from, and for: homes are shared between machines."""
    sources = [(FOLDER / name).read_text(encoding="utf-8") for name in ("tiles.h", *SOURCES)]
    made_of = [*sources, *FLAGS, platform.machine(), *platform.libc_ver()]
    return hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:16]


def _build(compiler: str, path: Path) -> None:
    command = [compiler, *FLAGS, "-o", str(path), *(str(FOLDER / name) for name in SOURCES), "-lm"]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)


def _reason(error: Exception) -> str:
    """The first line that the compiler complained in, else the error."""
    said = getattr(error, "stderr", None)
    return said.strip().splitlines()[0] if said else str(error)
