"""Our attention kernel for CPUs: built once with the machine's C compiler, called on PyTorch's threads' worth of threads.

PyTorch's own kernel takes more than twice as long for the 4096 tokens of Stable Diffusion at 512x512, where attention is much
of a step (`benchmarks/parts.py`). Without a compiler, or on a processor without AVX512-BF16, PyTorch's is used.

Letters: B samples, H heads, T queries, S keys, D width of a head.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from library.core.errors import UserError
from library.core.files import write_atomically

log = logging.getLogger("dojo")

SOURCE = Path(__file__).with_name("kernel.c")
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
COMPILERS = ("cc", "gcc", "clang")


class Shape(ctypes.Structure):
    """The `Shape` of kernel.c."""

    _fields_ = [(name, ctypes.c_int64) for name in ("batch", "heads", "T", "S", "D")] + [("scale", ctypes.c_float)]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BTC: Tensor, k_BSC: Tensor, v_BSC: Tensor, heads: int) -> Tensor:
        assert q_BTC.dtype == k_BSC.dtype == v_BSC.dtype == torch.bfloat16
        assert (
            k_BSC.shape == v_BSC.shape == (len(q_BTC), k_BSC.shape[1], q_BTC.shape[-1]) and q_BTC.shape[-1] % heads == 0
        )
        q, k, v = q_BTC.contiguous(), k_BSC.contiguous(), v_BSC.contiguous()
        out, lse_BHT = torch.empty_like(q), q.new_empty(q.shape[0], heads, q.shape[1], dtype=torch.float32)
        _run("attention_forward", _shape(q, k, heads), q, k, v, out, lse_BHT)
        ctx.save_for_backward(q, k, v, out, lse_BHT)
        ctx.heads = heads
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTC: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse_BHT = ctx.saved_tensors
        grads = [torch.empty_like(each) for each in (q, k, v)]
        shape = _shape(q, k, ctx.heads)
        _run("attention_backward", shape, q, k, v, out, grad_BTC.contiguous(), lse_BHT, *grads)
        return *grads, None


def compiled_attention(q_BTC: Tensor, k_BSC: Tensor, v_BSC: Tensor, heads: int) -> Tensor:
    """softmax(q kᵀ / sqrt(D)) v for each head, (B, T, C) in bf16, with C = H D.

    Args:
        q_BTC, k_BSC, v_BSC: bf16, on the CPU.
    """
    result: Tensor = _Attention.apply(q_BTC, k_BSC, v_BSC, heads)
    return result


def suits(q_BTC: Tensor, heads: int) -> bool:
    """Whether the kernel can be used for such queries here; not in what torch.compile traces, which cannot look into it."""
    if torch.compiler.is_compiling() or q_BTC.device.type != "cpu" or q_BTC.dtype != torch.bfloat16:
        return False
    return q_BTC.shape[-1] // heads % 2 == 0 and library() is not None


@cache
def library() -> ctypes.CDLL | None:
    """The kernel, built if it is not yet; None where it cannot be."""
    if not torch.cpu._is_avx512_bf16_supported():
        return None
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    try:
        built = _folder() / f"attention-{_digest()}.so"
        if not built.exists() and compiler is None:
            log.warning(
                "attention: no C compiler (%s) is here to build the CPU kernel, so PyTorch's is used, which takes about "
                "twice as long for large pictures. Install one, gcc say.",
                ", ".join(COMPILERS),
            )
            return None
        if not built.exists():
            write_atomically(built, lambda path: _build(str(compiler), path))
        return ctypes.CDLL(str(built))
    except (subprocess.SubprocessError, OSError, RuntimeError, UserError) as error:
        log.warning(
            "attention: the CPU kernel cannot be used, so PyTorch's slower one is: %s. It is built in ~/.cache/lora-dojo, or where "
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
    """Of what the kernel is built from, and for: homes are shared between machines."""
    made_of = [SOURCE.read_text(encoding="utf-8"), *FLAGS, platform.machine(), *platform.libc_ver()]
    return hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:16]


def _build(compiler: str, path: Path) -> None:
    command = [compiler, *FLAGS, "-o", str(path), str(SOURCE), "-lm"]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)


def _reason(error: Exception) -> str:
    """The first line that the compiler complained in, else the error."""
    said = getattr(error, "stderr", None)
    return said.strip().splitlines()[0] if said else str(error)


def _shape(q_BTC: Tensor, k_BSC: Tensor, heads: int) -> Shape:
    B, T, C = q_BTC.shape
    return Shape(B, heads, T, k_BSC.shape[1], C // heads, 1 / math.sqrt(C // heads))


def _run(name: str, shape: Shape, *tensors: Tensor) -> None:
    """Call a function of the kernel on as many threads as PyTorch uses, and wait for all of them."""
    function: Callable[..., int] = getattr(library(), name)
    following = ctypes.c_int64(0)
    arguments = [ctypes.byref(shape), ctypes.byref(following), *(ctypes.c_void_p(each.data_ptr()) for each in tensors)]
    others: list[Future[int]] = []
    try:
        others += (_threads().submit(function, *arguments) for _ in range(torch.get_num_threads() - 1))
        failed = function(*arguments)
    finally:  # an interrupt must not free the tensors under the other threads
        following.value = shape.batch * shape.heads * shape.T
        wait(others)
    if failed or any(other.result() for other in others):
        raise MemoryError("attention: out of memory")


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="attention")
