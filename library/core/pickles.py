"""Files that can run a program when they are opened, known by their names."""

from __future__ import annotations

from pathlib import Path

from library.core.errors import UserError

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
RUNS_ANYTHING = (
    "which can run any program hidden in it when it is opened, so it is not read. Take the .safetensors version."
)


def is_pickle(name: str) -> bool:
    """Whether a file of that name is a pickle."""
    return name.lower().endswith(PICKLES)


def refusal(name: str) -> str:
    """Why such a file is not read, and what to do instead."""
    return (
        f"'{name}' is a pickle ('{Path(name).suffix}'), {RUNS_ANYTHING} With allow_pickle = true its tensors are taken out "
        "without running what is in it; the risk that is left is a fault in PyTorch's reader, so do that only where you trust "
        "who made the file."
    )


def refuse_pickle(file: Path) -> None:
    """
    Raises:
        UserError: the file's ending is that of a pickle.
    """
    if is_pickle(file.name):
        raise UserError(refusal(file.as_posix()))
