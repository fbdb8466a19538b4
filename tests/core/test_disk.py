"""What is told of writes that fail, with the system's own failures."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from safetensors.torch import save_file

from library.core.disk import amount, existing, failed_write, free_space, reading, stray_failure, system_error, writing
from library.core.errors import Exit, UserError
from library.core.files import new_folder, write_atomically

ROOM = 1 << 20


@pytest.fixture
def small_disk(disk_of: Callable[[int], Path]) -> Path:
    return disk_of(ROOM)


@pytest.mark.parametrize("layout", ["file", "folder"])
def test_a_full_disk_is_told_and_leaves_what_was_there(small_disk: Path, layout: str) -> None:
    target = small_disk / "lora"

    def write(content: bytes) -> None:
        if layout == "file":
            write_atomically(target, lambda path: path.write_bytes(content), len(content))
        else:
            with new_folder(target, len(content)) as folder:
                (folder / "network").write_bytes(content)

    write(b"former")
    with pytest.raises(UserError) as caught:
        write(bytes(2 * ROOM))
    assert caught.value.exit_code == Exit.DISK_FULL
    told = str(caught.value)
    for part in (
        f"{target} (2.1 MB) could not be written",
        "No space left on device",
        "1.0 MB are free",
        "Free some space",
    ):
        assert part in told
    assert "Everything saved before is whole" in told and "output_dir" not in told
    assert [path.name for path in small_disk.iterdir()] == ["lora"]
    assert (target if layout == "file" else target / "network").read_bytes() == b"former"
    write(bytes(ROOM // 2))


def test_safetensors_own_error_is_understood(small_disk: Path) -> None:
    with (
        pytest.raises(UserError, match="No space left on device") as caught,
        new_folder(small_disk / "state") as folder,
    ):
        save_file({"values": torch.zeros(ROOM)}, folder / "network.safetensors")
    assert caught.value.exit_code == Exit.DISK_FULL
    assert list(small_disk.iterdir()) == []


LIMITED = """
import resource, sys
from pathlib import Path
from library.core.files import new_folder, write_atomically
from library.core.runtime import run_command
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
folder = Path(sys.argv[1])
def plain():
    write_atomically(folder / "lora", lambda path: path.write_bytes(bytes(1 << 17)), 1 << 17)
def foreign():
    import torch
    from safetensors.torch import save_file
    with new_folder(folder / "state") as state:
        save_file({"values": torch.zeros(1 << 17)}, state / "network.safetensors")
def stray():
    (folder / "log").write_bytes(bytes(1 << 17))
def reported():
    sys.stdout = open(folder / "output", "w")
    print("x" * (1 << 17))
sys.exit(run_command({"plain": plain, "foreign": foreign, "stray": stray, "reported": reported}[sys.argv[2]]))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit to a file's size")
@pytest.mark.parametrize("case", ["plain", "foreign", "stray", "reported"])
def test_a_file_that_may_not_grow_ends_a_command_in_order(tmp_path: Path, case: str) -> None:
    command = [sys.executable, "-c", LIMITED, str(tmp_path), case]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == Exit.DISK_FULL
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "File too large" in done.stderr and "ulimit -f" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"log", "output"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")
def test_a_folder_that_may_not_be_written_is_the_users_to_mend() -> None:
    with TemporaryDirectory() as name, without_rights_in(Path(name)):
        folder = Path(name) / "out"
        with pytest.raises(UserError, match=r"Permission denied.*change the owner or the rights") as caught:
            write_atomically(folder / "lora", lambda path: path.write_bytes(b"x"))
        assert caught.value.exit_code == Exit.MISTAKE


@contextmanager
def without_rights_in(folder: Path) -> Iterator[None]:
    """Within the block this process may not write there; root, who may always, is somebody else meanwhile."""
    root = os.geteuid() == 0
    folder.chmod(0o500)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o700)


def test_a_disk_for_reading_only(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UserError, match=r"Read-only file system.*name a folder on another disk") as caught:
        write_atomically(small_disk / "lora", lambda path: path.write_bytes(b"x"))
    assert caught.value.exit_code == Exit.MISTAKE


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "output").write_bytes(b"")
    with pytest.raises(UserError, match="could not be written") as caught:
        write_atomically(tmp_path / "output" / "lora", lambda path: path.write_bytes(b"x"))
    assert caught.value.exit_code == Exit.MISTAKE


def test_other_errors_of_a_writer_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writing(tmp_path):
        raise ZeroDivisionError
    mistake = UserError("told already (os error 28)")
    with pytest.raises(UserError) as caught, writing(tmp_path):
        raise mistake
    assert caught.value is mistake


def test_errors_of_the_system_are_known_by_their_number() -> None:
    assert system_error(OSError(errno.EROFS, "x")) == errno.EROFS
    assert system_error(RuntimeError("I/O error: Quota exceeded (os error 122)")) == 122
    assert system_error(RuntimeError("shape mismatch")) is None


def test_what_no_writer_has_met() -> None:
    full = stray_failure(OSError(errno.ENOSPC, "No space left on device", "/somewhere/events"))
    assert full is not None and full.exit_code == Exit.DISK_FULL and "/somewhere/events" in str(full)
    nameless = stray_failure(OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert nameless is not None and nameless.exit_code == Exit.DISK_FULL and "quota" in str(nameless)
    denied = stray_failure(PermissionError(errno.EACCES, "Permission denied", "/secret"))
    assert denied is not None and "/secret cannot be used: Permission denied" in str(denied)
    assert stray_failure(PermissionError(errno.EPERM, "Operation not permitted")) is None, "of no file: a bug"
    assert stray_failure(FileNotFoundError(errno.ENOENT, "No such file", "/x")) is None
    assert stray_failure(RuntimeError("shape mismatch")) is None


def test_room_is_that_of_the_nearest_folder_that_is_there(tmp_path: Path) -> None:
    assert existing(tmp_path / "a" / "b") == tmp_path
    assert free_space(tmp_path / "a" / "b") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)


def test_a_size_that_is_not_known_is_not_told() -> None:
    assert "(" not in str(failed_write(OSError(errno.ENOSPC, "x"), None)).split("could")[0]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 kB"),
        (12_345, "12 kB"),
        (999_800, "1.0 MB"),
        (1_234_000_000, "1.2 GB"),
        (340e6, "340 MB"),
        (2.5e12, "2.5 TB"),
    ],
)
def test_amounts(size: float, text: str) -> None:
    assert amount(size) == text


def test_what_cannot_be_read_is_not_told_as_a_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"file/inner cannot be read: Not a directory\. See that") as caught,
        reading(tmp_path),
    ):
        (tmp_path / "file" / "inner").read_bytes()
    assert "written" not in str(caught.value)
    with pytest.raises(ValueError, match="ours"), reading(tmp_path):
        raise ValueError("ours")
