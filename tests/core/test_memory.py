"""Lack of memory is recognised in all its forms, and told with how much there is."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

import pytest
import torch

from library.core.errors import Exit, UserError
from library.core.memory import amounts, is_out_of_memory, needing_memory
from library.core.runtime import run_command


def too_much_of_torch() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def too_much_of_python() -> None:
    bytearray(sys.maxsize)


def from_the_system() -> None:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def from_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def from_cublas() -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


KINDS = [too_much_of_torch, too_much_of_python, from_the_system, from_a_gpu, from_cublas]


@pytest.mark.parametrize("ask", KINDS)
def test_every_kind_becomes_the_users_with_its_own_status(ask: Callable[[], None]) -> None:
    with pytest.raises(UserError, match=r"^out of memory while asking: .* free|no more") as told:
        needing_memory("while asking", "Ask for less.")(ask)()
    assert told.value.exit_code == Exit.OUT_OF_MEMORY
    assert str(told.value).endswith(". Ask for less.")


@pytest.mark.parametrize("ask", KINDS)
def test_no_kind_ends_a_command_with_a_traceback(ask: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(ask) == Exit.OUT_OF_MEMORY == 4  # type: ignore[arg-type]
    assert capsys.readouterr().err.startswith("error: out of memory: ")


@pytest.mark.parametrize("error", [RuntimeError("shapes cannot be multiplied"), OSError(errno.EIO, "x"), KeyError("x")])
def test_other_errors_are_left_alone(error: Exception) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)), needing_memory("here", "no"):
        raise error


def test_amounts_are_in_readable_units() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(3 << 50, dtype=torch.uint8)
    assert amounts(caught.value).startswith("3145728.0 GiB more were asked for, of the machine's ")
