"""What the tools that write a LoRA file have in common on their command line."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from library.core.errors import UserError

if TYPE_CHECKING:
    import torch

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "float": "float32"}
FAMILIES = ("sd1", "sd2", "sdxl")

Item = TypeVar("Item")


def add_out(parser: argparse.ArgumentParser) -> None:
    """--out and --dtype, and sd-scripts' words for them."""
    parser.add_argument("--out", "--save_to", type=Path, required=True, help="the new file")
    add_dtype(parser)


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """--dtype, for tools whose weights are computed anew (`stored_dtype`)."""
    parser.add_argument(
        "--dtype",
        "--save_precision",
        choices=list(DTYPES),
        metavar="fp32|fp16|bf16",
        help="type of its weights; unset: the half precision that all inputs have in common, else fp32",
    )


def add_family(parser: argparse.ArgumentParser) -> None:
    """--family, for files that do not tell it."""
    parser.add_argument("--family", choices=FAMILIES, help="what a file is for that does not tell it itself")


def check_out(out: Path, inputs: Iterable[Path]) -> None:
    """
    Raises:
        UserError: no safetensors file, or one of the inputs.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out.as_posix()} must end in .safetensors.")
    for path in inputs:
        if out.exists() and path.exists() and out.samefile(path):
            raise UserError(
                f"--out {out.as_posix()} is one of the inputs, which are never written over. Name another file."
            )


def stored_dtype(asked: str | None, inputs: Iterable[torch.dtype]) -> torch.dtype:
    """The type that is asked for, else the half precision that all inputs have in common, else fp32."""
    import torch

    if asked is not None:
        dtype: torch.dtype = getattr(torch, DTYPES[asked])
        return dtype
    found = set(inputs)
    half = found & {torch.float16, torch.bfloat16}
    return half.pop() if found and found == half and len(found) == 1 else torch.float32


def counted(items: Iterable[Item], total: int, what: str) -> Iterable[Item]:
    """The items, with a progress bar that shows the time left."""
    from tqdm import tqdm

    bar: Iterable[Item] = tqdm(items, total=total, desc=what, unit="layer")
    return bar


def described_size(path: Path) -> str:
    """12 MB."""
    from library.core.disk import amount

    return amount(path.stat().st_size)
