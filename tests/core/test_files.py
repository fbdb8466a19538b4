"""Files and folders appear whole, or what was there before stays."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from library.core import files
from library.core.files import clear_leftovers, new_folder, write_atomically


class Crash(Exception):
    """Something that goes wrong half-way."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def half_written(path: Path) -> None:
    path.write_text("hal", encoding="utf-8")
    raise Crash


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "lora.safetensors"
    write_atomically(file, lambda path: path.write_bytes(b"whole"))
    assert file.read_bytes() == b"whole"
    assert names(file.parent) == ["lora.safetensors"]


def test_a_file_takes_the_place_of_the_former_one(tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    for content in (b"a longer former one", b"new"):
        write_atomically(file, lambda path, content=content: path.write_bytes(content))
    assert file.read_bytes() == b"new"
    assert names(tmp_path) == ["lora.safetensors"]


@pytest.mark.parametrize("former", [None, "former"])
def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path, former: str | None) -> None:
    file = tmp_path / "lora.safetensors"
    if former:
        file.write_text(former, encoding="utf-8")
    with pytest.raises(Crash):
        write_atomically(file, half_written)
    assert names(tmp_path) == (["lora.safetensors"] if former else [])
    assert not former or file.read_text(encoding="utf-8") == former


def test_while_it_is_written_the_former_file_is_still_there(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    file.write_text("former", encoding="utf-8")

    def write(path: Path) -> None:
        path.write_text("new", encoding="utf-8")
        assert path != file
        assert path.parent == file.parent, "only a neighbour can be moved into place in one stroke"
        assert file.read_text(encoding="utf-8") == "former"

    write_atomically(file, write)
    assert file.read_text(encoding="utf-8") == "new"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_files_have_the_usual_mode_whatever_their_writer_does(tmp_path: Path) -> None:
    def secretively(path: Path) -> None:
        path.unlink()
        path.write_text("x", encoding="utf-8")
        path.chmod(0o600)

    usual = tmp_path / "usual"
    usual.write_text("x", encoding="utf-8")
    write_atomically(tmp_path / "file", secretively)
    with new_folder(tmp_path / "folder") as folder:
        (folder / "deep").mkdir()
        secretively_in = folder / "deep" / "file"
        secretively_in.touch()
        secretively(secretively_in)
    wanted = stat.S_IMODE(usual.stat().st_mode)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == wanted
    assert stat.S_IMODE((tmp_path / "folder" / "deep" / "file").stat().st_mode) == wanted


def test_a_folder_takes_the_place_of_the_whole_former_one(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "run-state"
    for name in ("old.safetensors", "new.safetensors"):
        with new_folder(target) as folder:
            assert names(folder) == [], "a new folder starts empty"
            (folder / name).write_text("x", encoding="utf-8")
            assert folder.parent == target.parent
    assert names(target) == ["new.safetensors"]
    assert names(target.parent) == ["run-state"]


@pytest.mark.parametrize("former", [False, True])
def test_a_block_that_fails_leaves_the_former_folder(tmp_path: Path, former: bool) -> None:
    target = tmp_path / "run-state"
    if former:
        target.mkdir()
        (target / "state.json").write_text("former", encoding="utf-8")
    with pytest.raises(Crash), new_folder(target) as folder:
        (folder / "state.json").write_text("half", encoding="utf-8")
        raise Crash
    assert names(tmp_path) == (["run-state"] if former else [])
    assert not former or (target / "state.json").read_text(encoding="utf-8") == "former"


KILLED = """
import os, signal, sys
from pathlib import Path
from library.core import files
folder, moves, exchange = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "exchange"
if not exchange:
    files._exchanged = lambda one, other: False  # as on a disk that cannot swap names
def die(former):
    def move(*arguments, **options):
        global moves
        if moves == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        moves -= 1
        return former(*arguments, **options)
    return move
Path.replace = die(Path.replace)
files._exchanged = die(files._exchanged)
files.shutil.rmtree = die(files.shutil.rmtree)
with files.new_folder(folder) as new:
    (new / "state.json").write_text("new")
    (new / "values").write_text("new")
"""
"""Replaces a folder and is killed before the move of that number, or before the former folder is removed."""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize(
    ("way", "moves", "left"),
    [
        ("exchange", 0, "former"),
        ("exchange", 1, "new"),
        *(("moved", n, "former") for n in range(3)),
        ("moved", 3, "new"),
    ],
)
def test_killed_at_any_moment_a_whole_folder_is_left(tmp_path: Path, way: str, moves: int, left: str) -> None:
    target = tmp_path / "run-state"
    with new_folder(target) as folder:
        for name in ("state.json", "values"):
            (folder / name).write_text("former", encoding="utf-8")
    command = [sys.executable, "-c", KILLED, str(target), str(moves), way]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 2, "it was killed half-way"
    clear_leftovers(tmp_path, lambda name: name == "run-state")
    assert names(tmp_path) == ["run-state"]
    assert {(target / name).read_text(encoding="utf-8") for name in ("state.json", "values")} == {left}


@pytest.mark.skipif(sys.platform != "linux", reason="how names are swapped depends on the system")
def test_names_are_swapped_in_one_stroke(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / folder.name).touch()
    assert files._exchanged(one, other)
    assert (names(one), names(other)) == (["other"], ["one"])
    assert not files._exchanged(one, tmp_path / "missing")


def test_leftovers_of_others_stay(tmp_path: Path) -> None:
    stays = [".lora.safetensors.tmp", ".other.safetensors.0123abcd.tmp", "lora.0123abcd.tmp", ".lora.png.0123abcg.tmp"]
    goes = [".lora.safetensors.0123abcd.tmp", ".lora-state.89abcdef.tmp", ".lora-state.89abcdef.former"]
    for name in (*stays, *goes):
        (tmp_path / name).touch()
    (tmp_path / "lora-state").mkdir()
    clear_leftovers(tmp_path, lambda name: name.startswith("lora"))
    assert names(tmp_path) == sorted([*stays, "lora-state"])


def test_fresh_leftovers_can_be_spared(tmp_path: Path) -> None:
    for number, age in enumerate((10, 5000)):
        file = tmp_path / f".{number}.0123abcd.tmp"
        file.touch()
        os.utime(file, (file.stat().st_atime, file.stat().st_mtime - age))
    clear_leftovers(tmp_path, lambda name: True, older_than=1000)
    assert names(tmp_path) == [".0.0123abcd.tmp"]
    clear_leftovers(tmp_path / "nowhere", lambda name: True)
