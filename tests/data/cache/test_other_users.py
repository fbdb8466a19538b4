"""A folder of caches that several users share: what one has made, the others may read only."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from library.cli.main import main
from library.core.errors import Exit
from library.core.files import DAY
from library.data.cache import claims
from library.data.cache.contents import verify
from library.data.cache.pruning import prune
from library.data.cache.store import TensorCache
from tests.data.cache.shard_files import records

KEYS = [f"{number:040x}" for number in range(1, 9)]


def put(folder: Path, *numbers: int) -> None:
    cache = TensorCache(folder)
    for number in numbers:
        cache.put(KEYS[number], {"x": torch.tensor([float(number)])})
    cache.flush()


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data of a shard of four entries that may be read only, as the system says it to who is not its superuser."""
    put(tmp_path / "latents", 0, 1, 2, 3)
    (data,) = (tmp_path / "latents").glob("*.data")
    index, opened, path_opened, allowed = data.with_suffix(".index"), os.open, Path.open, os.access

    def refuse(path: object) -> None:
        if path in (data, index):
            raise PermissionError(13, "Permission denied", str(path))

    def open_file(path, flags, *rest, **keywords):
        if flags & (os.O_RDWR | os.O_WRONLY):
            refuse(path)
        return opened(path, flags, *rest, **keywords)

    def open_path(path, mode="r", *rest, **keywords):
        if "+" in mode or "w" in mode:
            refuse(path)
        return path_opened(path, mode, *rest, **keywords)

    monkeypatch.setattr(claims.os, "open", open_file)
    monkeypatch.setattr(claims.os, "access", lambda path, *rest, **more: path != index and allowed(path, *rest, **more))
    monkeypatch.setattr(Path, "open", open_path)
    return data


def test_who_may_not_add_to_their_shard_makes_his_own(theirs: Path) -> None:
    before = theirs.read_bytes()
    put(theirs.parent, 4, 5)
    cache = TensorCache(theirs.parent)
    assert [cache.get(key)["x"].item() for key in KEYS[:6]] == list(range(6))
    assert theirs.read_bytes() == before and len(list(theirs.parent.glob("*.data"))) == 2


def test_pruning_leaves_theirs_tells_it_and_goes_on(theirs: Path) -> None:
    put(theirs.parent, 4)
    (mine,) = (file for file in theirs.parent.glob("*.data") if file != theirs)
    assert [each.done for each in prune(theirs.parent, unused_for=None)] == ["kept, being another user's"]
    for file in (mine, theirs):
        os.utime(file, (0, 0))
    for dry_run in (True, False):
        told = {each.what: each.done for each in prune(theirs.parent, unused_for=DAY, dry_run=dry_run)}
        assert told == {str(theirs): "kept, being another user's", str(mine): "removed"}
    assert theirs.exists() and not mine.exists()


def test_what_only_they_may_remove_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in folders that have the sticky bit."""
    put(tmp_path, 0)
    (data,) = tmp_path.glob("*.data")
    for file in (data, tmp_path / "half.data"):
        file.touch()
        os.utime(file, (time.time() - 2 * DAY,) * 2)
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok=False: _refused(path))
    told = {each.what: each.done for each in prune(tmp_path, unused_for=DAY)}
    assert told == dict.fromkeys([str(data), str(tmp_path / "half.data")], "kept, being another user's")


def _refused(path: Path) -> None:
    raise PermissionError(1, "Operation not permitted", str(path))


def test_their_damage_is_told_and_left(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(theirs.read_bytes())
    data[-1] ^= 1
    (theirs.parent / "damaged").write_bytes(data)
    (theirs.parent / "damaged").replace(theirs)
    assert main(["cache", "verify", "--cache_dir", str(theirs.parents[1])]) == Exit.MISTAKE
    told = capsys.readouterr().out
    assert f"{theirs}: 1 damaged entry, which only its owner may strike out" in told
    assert "made anew by the next run" not in told
    found = verify(theirs.parent)
    assert (
        found and (found.entries, found.damaged, found.left) == (4, [], [theirs]) and len(records(theirs.parent)) == 4
    )
