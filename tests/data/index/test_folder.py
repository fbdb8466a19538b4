from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from library.data.index.folder import Folder, numbers_of


def test_files_by_name_with_their_stats_and_hidden_ones_left_out(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "ä.png", ".hidden.png", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    listing = Folder(tmp_path).listing()
    assert listing.names == ["a.png", "b.png", "ä.png"]
    assert listing.stats_N4.tolist() == [list(numbers_of((tmp_path / name).stat())) for name in listing.names]
    assert listing.nbytes == sum(len(name.encode()) for name in listing.names)
    assert Folder(tmp_path).read("ä.png") == "ä.png".encode()


def test_all_below_with_links_and_no_end_in_a_circle(tmp_path: Path) -> None:
    for name in ("a.png", "x/b.png", "x/y/c.png", ".git/d.png"):
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "data" / name).write_bytes(b"")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "e.png").write_bytes(b"")
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "gone.png").symlink_to(tmp_path / "nowhere")
    assert Folder(tmp_path / "data").listing(recursive=True).names == ["a.png", "link/e.png", "x/b.png", "x/y/c.png"]


def test_a_link_to_the_folder_itself_adds_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "circle").symlink_to(tmp_path)
    assert Folder(tmp_path).listing(recursive=True).names == ["a.png"]


def test_all_subfolders_where_a_listing_has_no_numbers_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows `DirEntry.stat` gives 0 for inode and device."""
    for name in ("x/a.png", "y/b.png", "y/z/c.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"")

    class Entry:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self.name, self.path, self.is_file, self.is_dir = entry.name, entry.path, entry.is_file, entry.is_dir

        def stat(self) -> SimpleNamespace:
            real = Path(self.path).stat()
            times = {name: getattr(real, name) for name in ("st_size", "st_mtime_ns", "st_ctime_ns")}
            return SimpleNamespace(st_ino=0, st_dev=0, **times)

    scandir = os.scandir

    @contextmanager
    def numberless(path: Path) -> Iterator[Iterator[Entry]]:
        with scandir(path) as entries:
            yield map(Entry, entries)

    monkeypatch.setattr(os, "scandir", numberless)
    assert Folder(tmp_path).listing(recursive=True).names == ["x/a.png", "y/b.png", "y/z/c.png"]


def test_named_files_inside_and_elsewhere(tmp_path: Path) -> None:
    for name in ("data/a.png", "other/b.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(name.encode())
    folder = Folder(tmp_path / "data")
    paths = [tmp_path / "other" / "b.png", tmp_path / "data" / "a.png"]
    listing = folder.named([folder.name_of(path) for path in paths])
    assert [folder.path(name) for name in listing.names] == [tmp_path / "other" / "b.png", tmp_path / "data" / "a.png"]
    assert [folder.read(name) for name in listing.names] == [b"other/b.png", b"data/a.png"]
    with pytest.raises(OSError):
        folder.named(["nowhere.png"])


@pytest.mark.skipif(os.name == "nt", reason="names are UTF-16 there")
def test_names_that_are_no_text(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(b"x")
    (name,) = Folder(tmp_path).listing().names
    assert os.fsencode(name) == b"\xff.png" and Folder(tmp_path).read(name) == b"x"
