"""Memory that does not suffice: recognised, whoever asked for it, and told in plain words."""

from __future__ import annotations

import ctypes
import errno
import gc
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from library.core.disk import system_error
from library.core.errors import Exit, UserError

WORDS = (
    "out of memory",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "std::bad_alloc",
    "ALLOC_FAILED",
    "could not create a primitive",
    "could not create a memory object",
)
"""What drivers, PyTorch (on Linux, and on Windows), C++ libraries, cuBLAS and cuDNN, and oneDNN say in errors that have no type of
their own. oneDNN says no more, but of a product that it did before nothing else can be wrong."""

ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+) (bytes|[KMGT]iB)")
GPU = re.compile(r"total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free")

LESS = "Lower train_batch_size or the resolution, or set gradient_checkpointing = true."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was asked for that is not there, on whatever device."""
    if isinstance(error, UserError):
        return False
    if isinstance(error, MemoryError) or system_error(error) == errno.ENOMEM:
        return True
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):  # torch's, without importing it
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in WORDS)


@contextmanager
def needing_memory(where: str, advice: str) -> Iterator[None]:
    """Within the block, or the function that this decorates, lack of memory becomes a mistake of the user's.

    Args:
        where: "while the latents were cached".
        advice: what to change.

    Raises:
        UserError: with `Exit.OUT_OF_MEMORY`.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(error, where, advice) from error


def out_of_memory(error: BaseException, where: str = "", advice: str = LESS) -> UserError:
    """What to tell of such an error."""
    return UserError(f"out of memory{f' {where}' if where else ''}: {amounts(error)}. {advice}", Exit.OUT_OF_MEMORY)


def amounts(error: BaseException) -> str:
    """How much was asked for, and how much there is."""
    text = str(error)
    asked, gpu = ASKED.search(text), GPU.search(text)
    told = [f"{_readable(asked[1], asked[2])} more were asked for"] if asked else []
    if gpu:
        told.append(f"of the GPU's {gpu[1]} {gpu[2]} are free")
    elif "CUDA" in text or "CUBLAS" in text or "CUDNN" in text:
        told.append("the GPU has no more")
    else:
        told.append(_of_this_machine())
    return ", ".join(told)


def give_back_memory() -> None:
    """Return to the device and to the system what nobody holds any more, tensors in cycles included.

    Call it outside of the `except` block: the error holds everything that was under way.
    """
    gc.collect()
    if sys.platform.startswith("linux"):
        trim = getattr(
            ctypes.CDLL(None), "malloc_trim", None
        )  # glibc's; it keeps what is freed, see `keep_freed_memory`
        if trim is not None:
            trim(0)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _of_this_machine() -> str:
    import psutil

    memory = psutil.virtual_memory()
    told = f"of the machine's {_readable(memory.total)} {_readable(memory.available)} are free"
    if sys.platform != "win32":
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            told += f", and this process may have {_readable(limit)} (`ulimit -v`)"
    return told


def _readable(number: str | float, unit: str = "bytes") -> str:
    """1.5 GiB; what has a unit already keeps it."""
    if unit != "bytes":
        return f"{number} {unit}"
    size = float(number)
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
