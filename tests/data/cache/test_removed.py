"""The folder of a cache is removed, wholly or half, at the very moment of each call that meets its files."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from library.core.errors import UserError
from library.data.cache import appending, filling, reading
from library.data.cache.store import TensorCache

KEYS = [f"{number:040x}" for number in range(1, 5)]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="what is open cannot be deleted there")


def put(cache: TensorCache, *numbers: int) -> None:
    for number in numbers:
        cache.put(KEYS[number], {"x": torch.tensor([float(number)])})


def lacking(cache: TensorCache) -> list[int]:
    found = [cache.get(key) for key in KEYS]
    assert all(entry is None or entry["x"].item() == number for number, entry in enumerate(found))
    return [number for number, entry in enumerate(found) if entry is None]


def at_its_call(monkeypatch: pytest.MonkeyPatch, owner: ModuleType | type, name: str, happens: Callable[[], object]):
    """Let it happen just before the next call; the list tells whether there was one."""
    original, waiting = getattr(owner, name), [happens]

    def called(*arguments, **keywords):
        if waiting:
            waiting.pop()()
        return original(*arguments, **keywords)

    monkeypatch.setattr(owner, name, called)
    return waiting


@pytest.mark.parametrize("taken_up", [False, True], ids=["new shard", "former shard"])
@pytest.mark.parametrize(
    "call", ["shards_in", "claim", "made_and_claimed", "strike_out", "read_rows", "flush_folder", "write_at", "rows_of"]
)
def test_while_entries_are_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, taken_up: bool) -> None:
    cache = TensorCache(tmp_path / "cache")
    if taken_up:
        put(cache, 0)
        cache.flush()
    waiting = at_its_call(monkeypatch, appending, call, lambda: shutil.rmtree(tmp_path / "cache", ignore_errors=True))
    for _ in range(2):
        put(cache, *lacking(cache))
        whole = cache.hold()
        assert whole <= (not lacking(cache)), "what is said to be whole is"
    assert whole
    assert not waiting or (call, taken_up) in {("claim", False), ("made_and_claimed", True)}


def test_between_the_two_looks_of_mkdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds the folder there, and then does not."""
    cache = TensorCache(tmp_path / "cache")
    put(cache, 0)
    cache.flush()
    waiting = at_its_call(monkeypatch, Path, "is_dir", lambda: shutil.rmtree(tmp_path / "cache"))
    put(cache, 0, 1, 2, 3)
    assert not waiting and not cache.hold() | bool(lacking(cache))


@pytest.mark.parametrize(
    ("owner", "call"),
    [(reading, "shards_in"), (reading, "rows_between"), (reading, "segment_of"), (reading, "DataFile")],
    ids=["listed", "read", "noted", "opened"],
)
@pytest.mark.parametrize("what", ["*", "*.data", "*.index"])
def test_while_it_is_taken_hold_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: ModuleType, call: str, what: str
) -> None:
    cache = TensorCache(tmp_path / "cache")
    put(cache, 0, 1, 2, 3)
    cache.flush()

    def remove() -> None:
        for file in (tmp_path / "cache").glob(what):
            file.unlink()

    at_its_call(monkeypatch, owner, call, remove)
    assert cache.hold() <= (not lacking(cache)), "what is said to be whole is"
    put(cache, *lacking(cache))
    assert cache.hold() and lacking(cache) == []


def test_data_that_go_before_their_index_are_missed(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    put(cache, 0, 1)
    cache.flush()
    (data,) = tmp_path.glob("*.data")
    data.unlink()
    assert not cache.hold()


def test_removed_data_do_not_come_back_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a shard that somebody is removing would look whole until its index goes too."""
    cache, other = TensorCache(tmp_path), TensorCache(tmp_path)
    put(cache, 0, 1)
    cache.flush()
    (data,) = tmp_path.glob("*.data")
    original = appending.claim
    monkeypatch.setattr(appending, "claim", lambda shard: (original(shard), data.unlink())[0])
    put(other, 2)
    other.flush()
    assert not data.exists() and not cache.hold() and lacking(TensorCache(tmp_path)) == [0, 1, 3]


def test_another_process_holds_what_this_one_held(tmp_path: Path) -> None:
    """As workers do that are spawned, which inherit no open files."""
    cache = TensorCache(tmp_path / "cache")
    put(cache, 0, 1, 2, 3)
    unheld = pickle.loads(pickle.dumps(cache))
    assert cache.hold()
    sent = pickle.loads(pickle.dumps(cache))
    shutil.rmtree(tmp_path / "cache")
    assert lacking(sent) == [] and lacking(unheld) == [0, 1, 2, 3]
    assert lacking(pickle.loads(pickle.dumps(cache))) == [0, 1, 2, 3], "told when they are asked for, not before"


def test_a_cache_that_is_removed_again_and_again_is_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = TensorCache(tmp_path / "cache")

    def fill() -> None:
        put(cache, 0)
        cache.flush()
        shutil.rmtree(tmp_path / "cache")

    with pytest.raises(UserError, match=f"{tmp_path / 'cache'} were removed while it was filled, 3 times .* cache_dir"):
        filling._until_whole(cache, fill)
    assert caplog.text.count("is made anew") == 2, "not after the last"
