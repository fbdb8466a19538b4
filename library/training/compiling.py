"""torch.compile for the blocks that a UNet is made of.

Blocks of one kind share their code, so what is compiled for one is found in the cache for the next; a whole UNet compiled at
once would take many times as long.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from library.core.errors import UserError

REPEATED = ("BasicTransformerBlock", "ResnetBlock2D")
"""Classes of diffusers' UNet that hold nearly all of its arithmetic."""

SHAPES = 16
"""Shapes of batches that are compiled. Blocks meet further ones as they are, and torch warns of that."""

VARIANTS = 2
"""The pass that trains, and the frozen prediction."""


def compile_blocks(unet: nn.Module, backend: str, device: torch.device) -> None:
    """Let the UNet's repeated blocks compile themselves when they are first called, for each shape by itself.

    Call it after the network is attached. What inductor compiles is kept for later runs.

    Raises:
        UserError: the backend cannot compile here.
    """
    if backend == "inductor":
        _check_compiler(device)
        # Read when inductor starts; the user's own choice stands.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path.home() / ".cache" / "lora-dojo" / "compiled"))
    from torch._dynamo import config as dynamo  # importing it takes seconds

    blocks = list(repeated_blocks(unet))
    # Each block has an adapter of its own, and so a variant of its own of the code that all blocks of its kind share.
    limit = len(blocks) * SHAPES * VARIANTS
    dynamo.recompile_limit = limit
    dynamo.accumulated_recompile_limit = limit
    for block in blocks:
        block.compile(backend=backend, dynamic=False)


def uncompiled() -> AbstractContextManager[None]:
    """While it is open, compiled blocks run as they were written.

    For pictures and validation: their modes, batch sizes and resolutions would each be compiled for a few passes.
    """
    return torch.compiler.set_stance("force_eager")


def repeated_blocks(unet: nn.Module) -> Iterator[nn.Module]:
    """The blocks that are compiled."""
    return (module for module in unet.modules() if type(module).__name__ in REPEATED)


def _check_compiler(device: torch.device) -> None:
    """
    Raises:
        UserError: inductor lacks what it compiles with.
    """
    if device.type == "cuda":
        if find_spec("triton") is None:
            raise UserError(
                "torch_compile = true needs the package triton, which is not installed: `pip install triton` (on Windows "
                "`pip install triton-windows`), or leave torch_compile out."
            )
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise UserError(
            "torch_compile = true needs a C++ compiler (g++ or clang++) to compile for the CPU, and none was found. Install "
            "one, or leave torch_compile out."
        ) from None
