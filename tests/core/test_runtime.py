"""What becomes of errors at the end of a command."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest
import torch

from library.core import runtime
from library.core.errors import Exit, UserError, UserErrors
from library.core.runtime import INTERRUPTED, available_cores, run_command


def failing(error: BaseException) -> object:
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (5, 5)])
def test_a_command_that_ends_well_gives_its_status(returned: int | None, status: int) -> None:
    assert run_command(lambda: returned) == status


def test_a_mistake_is_told_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(failing(UserError("seed = 'x' is not a number"))) == 2
    told = capsys.readouterr()
    assert told.err == "error: seed = 'x' is not a number\n"
    assert told.out == ""


def test_a_mistake_has_its_own_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(failing(UserError("the gradient became NaN", exit_code=Exit.BROKEN_VALUES))) == 3
    assert "the gradient became NaN" in capsys.readouterr().err


def test_all_mistakes_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(failing(UserErrors(["this", "that"]))) == 2
    assert capsys.readouterr().err == "error: 2 problems:\n  1. this\n  2. that\n"


def test_another_process_says_which_one_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert run_command(failing(UserError("no space left"))) == 2
    told = capsys.readouterr().err
    assert "no space left" in told, "an error of one process alone must not be lost"
    assert "process 3" in told


def test_ctrl_c_ends_quietly(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(failing(KeyboardInterrupt())) == INTERRUPTED == 130
    assert "Traceback" not in capsys.readouterr().err


def test_our_own_bugs_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(failing(ZeroDivisionError()))


def test_there_is_at_least_one_core() -> None:
    assert available_cores() >= 1


def test_an_error_on_the_way_out_does_not_hide_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        try:
            raise UserError("the state could not be written", Exit.DISK_FULL)
        finally:
            try:
                raise OSError("no space")
            except OSError as error:
                raise UserError("the log could not be written") from error

    assert run_command(main) == Exit.DISK_FULL
    assert capsys.readouterr().err == "error: the state could not be written\nerror: the log could not be written\n"


@pytest.mark.parametrize("suppressed", [True, False])
def test_a_better_wording_replaces_an_error(suppressed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        try:
            raise UserError("terse", Exit.MISTAKE)
        except UserError as error:
            raise UserError("plain words", Exit.DISK_FULL) from None if suppressed else error

    assert run_command(main) == Exit.DISK_FULL
    assert capsys.readouterr().err == "error: plain words\n"


def test_a_full_disk_from_anywhere_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(failing(OSError(errno.ENOSPC, "No space left on device", "/logs/events"))) == Exit.DISK_FULL
    told = capsys.readouterr().err
    assert (
        told.startswith("error: /logs/events could not be written: No space left on device.")
        and "Traceback" not in told
    )


@pytest.mark.parametrize(
    ("asked", "launcher", "threads"),
    [
        (None, None, 8),
        ("1", None, 1),
        ("3", None, 3),
        ("1", "ACCELERATE_MIXED_PRECISION", 8),
        ("3", "TORCHELASTIC_RUN_ID", 3),
    ],
)
def test_threads_are_what_the_user_asks_for_or_all_cores(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, launcher: str | None, threads: int
) -> None:
    for name, value in (
        ("OMP_NUM_THREADS", asked),
        ("ACCELERATE_MIXED_PRECISION", None),
        ("TORCHELASTIC_RUN_ID", None),
    ):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    if launcher is not None:
        monkeypatch.setenv(launcher, "no")
    monkeypatch.setattr(runtime, "available_cores", lambda: 8)
    before = torch.get_num_threads()
    assert runtime.use_all_cores(1) == threads == torch.get_num_threads()
    torch.set_num_threads(before)


def test_a_progress_bar_does_not_fill_a_file_with_its_lines() -> None:
    script = """
import time
from library.core.runtime import run_command

def main():
    from tqdm import tqdm
    for _ in tqdm(range(40)):
        time.sleep(0.02)

run_command(main)
"""
    written = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stderr
    assert written.count("%|") == 2 and "40/40" in written
