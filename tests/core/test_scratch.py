"""A hidden folder that is gone afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from library.core.scratch import DAY, scratch_folder

ROOT = Path(__file__).resolve().parents[2]


def test_it_lies_beside_and_is_removed_with_its_content(tmp_path: Path) -> None:
    with scratch_folder(tmp_path / "output" / "hero", "trial") as folder:
        assert folder.parent == tmp_path, "the nearest folder that is there"
        assert folder.name.startswith(".hero-trial.")
        (folder / "sample").mkdir()
        (folder / "sample" / "a.png").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


def test_an_error_removes_it_too(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), scratch_folder(tmp_path / "hero", "trial"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_where_a_disk_is_mounted_it_lies_inside(disk_of: Callable[[int], Path]) -> None:
    output = disk_of(1 << 20)
    with scratch_folder(output, "trial") as folder:
        assert folder.parent == output
    assert list(output.iterdir()) == []


def test_what_a_kill_left_is_removed_after_a_day(tmp_path: Path) -> None:
    old, new, other = (
        tmp_path / name for name in (".hero-trial.0123abcd.tmp", ".hero-trial.4567abcd.tmp", ".x-trial.0123abcd.tmp")
    )
    for folder in (old, new, other):
        folder.mkdir()
    for folder in (old, other):
        os.utime(folder, (folder.stat().st_mtime - DAY - 60,) * 2)
    with scratch_folder(tmp_path / "hero", "trial"):
        assert not old.exists()
    assert new.exists()
    assert other.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to send")
def test_a_signal_removes_it_too(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from library.core.scratch import scratch_folder\n"
        "with scratch_folder(Path(sys.argv[1]), 'trial') as folder:\n"
        "    print(folder, flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "hero")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert Path(process.stdout.readline().strip()).is_dir()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
