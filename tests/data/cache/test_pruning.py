from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from library.core.errors import UserError
from library.core.files import DAY
from library.data.cache import contents as contents_module
from library.data.cache import pruning
from library.data.cache.contents import contents, verify
from library.data.cache.keys import text_key
from library.data.cache.pruning import least_used, prune
from library.data.cache.store import TensorCache
from tests.data.cache.shard_files import records

Fill = Callable[..., Path]


@pytest.fixture
def fill(tmp_path: Path) -> Fill:
    """`fill(first, last, unused=days)`: a shard of its own with these numbers; its data file."""

    def filled(first: int, last: int, unused: float = 0.0) -> Path:
        others = [TensorCache(tmp_path) for _ in list(tmp_path.glob("*.data"))]
        for place, other in enumerate(others):  # hold what is there
            other.put(text_key(f"held {place}", "m"), {"x": torch.zeros(1)})
        before = set(tmp_path.glob("*.data"))
        cache = TensorCache(tmp_path)
        for number in range(first, last):
            cache.put(text_key(str(number), "m"), {"x": torch.full((64,), float(number))})
        cache.flush()
        for other in others:
            other.flush()
        (made,) = set(tmp_path.glob("*.data")) - before
        os.utime(made, (time.time() - unused * DAY,) * 2)
        return made

    return filled


def numbers(folder: Path) -> set[int]:
    cache = TensorCache(folder)
    return {number for number in range(100) if cache.get(text_key(str(number), "m")) is not None}


def test_what_nobody_used_goes_and_reading_is_use(tmp_path: Path, fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "SMALL", 0)
    old, older, new = fill(0, 10), fill(10, 20), fill(20, 30)
    for file in (old, older):
        os.utime(file, (time.time() - 40 * DAY,) * 2)
    assert TensorCache(tmp_path).get(text_key("3", "m")) is not None
    told = [(each.done, each.what) for each in prune(tmp_path, unused_for=30 * DAY, dry_run=True)]
    assert told == [("removed", str(older))] and numbers(tmp_path) == set(range(30))
    os.utime(older, (time.time() - 40 * DAY,) * 2)
    assert [(each.done, each.what) for each in prune(tmp_path, unused_for=30 * DAY)] == told
    assert numbers(tmp_path) == {*range(10), *range(20, 30)}
    assert old.exists() and new.exists() and not older.with_suffix(".index").exists()


def test_the_least_recently_used_go_until_the_rest_fits(tmp_path: Path, fill: Fill) -> None:
    files = [fill(10 * place, 10 * place + 10, unused=days) for place, days in enumerate([3, 9, 1, 5])]
    for file, days in zip(files, [3, 9, 1, 5]):
        os.utime(file, (time.time() - days * DAY,) * 2)
    facts = contents(tmp_path).shards
    sizes = {each.shard.data: each.size for each in facts}
    assert least_used(facts, sum(sizes.values())) == []
    gone = least_used(facts, sizes[files[0]] + sizes[files[2]])
    assert [shard.data for shard in gone] == [files[1], files[3]]
    list(prune(tmp_path, unused_for=None, removed_first=gone))
    assert numbers(tmp_path) == {*range(10), *range(20, 30)}


def test_small_shards_are_put_together_once_and_what_is_superseded_or_damaged_goes(tmp_path: Path, fill: Fill) -> None:
    fill(0, 20)
    fill(10, 30)
    fill(25, 40)
    (spoilt,) = (each for each in records(tmp_path) if each.key == text_key("39", "m"))
    spoilt.write(60, b"something else")
    before = contents(tmp_path).shards
    assert sum(each.useless for each in before) > 0
    assert [each.done for each in prune(tmp_path, unused_for=None)] == ["written anew as few"]
    (after,) = contents(tmp_path).shards
    assert after.useless == 0 and after.entries == len(records(tmp_path)) == 40 + 2 - 1
    assert numbers(tmp_path) == set(range(39))
    assert list(prune(tmp_path, unused_for=None)) == []


def test_what_another_process_appends_to_is_left_alone(tmp_path: Path, fill: Fill) -> None:
    held = fill(0, 5)
    writer = TensorCache(tmp_path)
    writer.put(text_key("7", "m"), {"x": torch.zeros(1)})
    os.utime(held, (0, 0))
    assert ["kept" in each.done for each in prune(tmp_path, unused_for=DAY)] == [True]
    writer.flush()
    os.utime(held, (0, 0))
    assert [each.done for each in prune(tmp_path, unused_for=DAY)] == ["removed"]
    assert list(tmp_path.iterdir()) == []


def test_leftovers_go_and_nothing_else(tmp_path: Path, fill: Fill) -> None:
    fill(0, 5)
    former = tmp_path / "ab" / f"ab{'0' * 38}.safetensors"
    former.parent.mkdir()
    former.write_bytes(bytes(1000))
    mine = tmp_path / "cd" / "mine.safetensors"
    mine.parent.mkdir()
    mine.touch()
    for name, age in (("half.data", 2 * DAY), ("other.index", 2 * DAY), ("young.index", 0)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    told = {each.done: each.size for each in prune(tmp_path, unused_for=None)}
    assert told == {"removed, half a shard": 0, "removed, entries of a former layout": 1000}
    assert not former.parent.exists() and mine.exists()
    assert not (tmp_path / "half.data").exists() and not (tmp_path / "other.index").exists()
    assert (tmp_path / "young.index").exists() and numbers(tmp_path) == set(range(5))


@pytest.mark.skipif(os.name == "nt", reason="what is open cannot be removed there")
def test_shards_that_go_while_it_is_looked_at_are_no_matter(
    tmp_path: Path, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is removed just after the folder was listed, or after all of it was read."""
    kept = fill(0, 5)
    gone = fill(5, 10)
    original = contents_module.shards_in
    listing = iter([gone])

    def listed(folder: Path):
        for file in listing:
            file.with_suffix(".index").unlink()
            file.unlink()
        return original(folder)

    monkeypatch.setattr(contents_module, "shards_in", listed)
    there = contents(tmp_path)
    assert [each.shard.data for each in there.shards] == [kept] and there.strays == []
    spoilt = records(tmp_path)[0]
    spoilt.write(0, b"!")

    def removed(index: Path, *row: object) -> None:
        index.unlink()
        raise FileNotFoundError(2, "No such file or directory", str(index))

    monkeypatch.setattr(contents_module, "annul", removed)
    assert not verify(tmp_path)
    half = tmp_path / "half.data"
    there = replace(there, strays=[half], shards=[])
    assert list(pruning._without_leftovers(there, dry_run=False)) == []


def test_a_folder_that_cannot_be_read_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(contents_module, "shards_in", refused)
    for read in (contents, verify):
        with pytest.raises(UserError, match=r"cannot be read: Permission denied\. This user may not do that") as caught:
            read(tmp_path)
        assert "written" not in str(caught.value) and "free" not in str(caught.value)


def test_everything_is_read_and_what_is_damaged_is_annulled(tmp_path: Path, fill: Fill) -> None:
    fill(0, 20)
    first, second, *_ = records(tmp_path)
    first.flip(8 * 100 + 3)
    second.write(0, b"!")
    found = verify(tmp_path)
    assert (found.entries, found.damaged) == (20, [first.data] * 2)
    assert found.bytes == sum(record.length for record in records(tmp_path)) + first.length + second.length
    assert len(records(tmp_path)) == 18 and verify(tmp_path).damaged == []
    assert numbers(tmp_path) == set(range(2, 20))


def test_a_cache_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert contents(missing).shards == [] and verify(missing).entries == 0
    assert list(prune(missing, unused_for=DAY)) == [] and not missing.exists()
