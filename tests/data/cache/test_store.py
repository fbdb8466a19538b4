from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch.utils.data import DataLoader, Dataset

from library.core.errors import Exit, UserError
from library.data.cache.keys import latent_key, text_key
from library.data.cache.shards import is_whole
from library.data.cache.store import TensorCache
from library.data.pictures.placement import centred, mirrored
from tests.data.cache.shard_files import records

KEY = text_key("a caption", "model")
TENSORS = {"mean": torch.randn(4, 8, 8), "std": torch.randn(4, 8, 8).to(torch.bfloat16)}


def key(number: int) -> str:
    return text_key(str(number), "model")


def numbered(number: int) -> dict[str, torch.Tensor]:
    return {"latents": torch.tensor([float(number)])}


def same(found: dict[str, torch.Tensor] | None) -> bool:
    return found is not None and all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in TENSORS.items()
    )


@pytest.fixture
def filled(tmp_path: Path) -> Callable[[int], TensorCache]:
    def fill(count: int) -> TensorCache:
        cache = TensorCache(tmp_path)
        for number in range(count):
            cache.put(key(number), numbered(number))
        cache.flush()
        return TensorCache(tmp_path)

    return fill


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_is_put_is_got(tmp_path: Path, on_disk: bool) -> None:
    cache = TensorCache(tmp_path / "cache" if on_disk else None)
    assert cache.get(KEY) is None and cache.sizes([KEY]).tolist() == [0] and len(cache) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.put(KEY, TENSORS)
        assert same(cache.get(KEY))
        found = cache.get(KEY)
        assert found is not None
        found["mean"].zero_()
    assert same(cache.get(KEY)) and cache.sizes([KEY])[0] > 0 and len(cache) == 1
    assert same(pickle.loads(pickle.dumps(cache)).get(KEY))
    assert len(list((tmp_path / "cache").rglob("*.data"))) == on_disk


@pytest.mark.parametrize(
    "tensors",
    [
        {"scalar": torch.tensor(2.5)},
        {"none": torch.zeros(0, 3), "one": torch.ones(1, dtype=torch.int64)},
        {
            "half": torch.ones(3, dtype=torch.float16),
            "truth": torch.tensor([True, False]),
            "byte": torch.arange(5).byte(),
        },
        {"turned": torch.arange(6.0).reshape(2, 3).T},
    ],
)
def test_all_kinds_of_tensors_come_back(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    TensorCache(tmp_path).put(KEY, tensors)
    found = TensorCache(tmp_path).get(KEY)
    assert found is not None and found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype


def test_what_is_put_is_got_before_anything_is_flushed(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    for number in range(20):
        cache.put(key(number), numbered(number))
    assert len(records(tmp_path)) < 20, "an fsync for each would be slow"
    for number in range(20):
        found = cache.get(key(number))
        assert found is not None and torch.equal(found["latents"], numbered(number)["latents"])
    assert cache.sizes([key(number) for number in range(21)]).astype(bool).tolist() == [True] * 20 + [False]
    assert len(records(tmp_path)) == 20


def test_what_is_put_is_on_the_disk_when_the_cache_is_dropped(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    for number in range(3):
        cache.put(key(number), numbered(number))
    del cache
    assert len(records(tmp_path)) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda file, record: os.truncate(file, record.end - 1),
        lambda file, record: os.truncate(file, record.offset + 7),
        lambda file, record: os.truncate(file, 0),
        lambda file, record: record.write(0, b"x" * (record.end - record.offset)),
        lambda file, record: record.write(40, bytes(8)),
        lambda file, record: file.unlink(),
        lambda file, record: record.index.unlink(),
    ],
    ids=["cut", "cut to its head", "empty", "written over", "lost sector", "no data", "no index"],
)
def test_a_damaged_entry_counts_as_none_and_is_made_anew(
    tmp_path: Path, filled: Callable[[int], TensorCache], damage: Callable[..., object]
) -> None:
    filled(3)
    record = records(tmp_path)[-1]
    damage(record.data, record)
    cache = TensorCache(tmp_path)
    assert cache.get(record.key) is None
    cache.put(record.key, TENSORS)
    cache.flush()
    for opened in (cache, TensorCache(tmp_path)):
        assert same(opened.get(record.key))


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    TensorCache(tmp_path).put(KEY, {"a": torch.randn(1)})
    (record,) = records(tmp_path)
    index = record.index.read_bytes()
    whole = np.frombuffer(record.data.read_bytes(), np.uint8)
    for bit in range(8 * len(whole)):
        changed = whole.copy()
        changed[bit // 8] ^= 1 << bit % 8
        assert is_whole(whole, bytes.fromhex(KEY)) and not is_whole(changed, bytes.fromhex(KEY)), bit
    for bit in range(0, 8 * len(whole), 13):
        record.flip(bit)
        assert TensorCache(tmp_path).get(KEY) is None, bit
        assert TensorCache(tmp_path).sizes([KEY]).tolist() == [0], "annulled for everybody"
        record.flip(bit)
        record.index.write_bytes(index)
    assert TensorCache(tmp_path).get(KEY) is not None
    for bit in range(0, 8 * len(index), 5):
        flipped = bytearray(index)
        flipped[bit // 8] ^= 1 << bit % 8
        record.index.write_bytes(flipped)
        assert TensorCache(tmp_path).get(KEY) is not None and len(TensorCache(tmp_path)) == 1, bit
        assert [each.key for each in records(tmp_path)] == [KEY], "the damaged row is struck out, and there is another"


def test_a_damaged_index_is_told_once_and_mended_from_the_data(
    tmp_path: Path, filled: Callable[[int], TensorCache], caplog: pytest.LogCaptureFixture
) -> None:
    """Every bit flipped of rows in the middle, and a record that is damaged itself, which is lost."""
    filled(20)
    all_records = records(tmp_path)
    index = all_records[0].index
    all_records[5].write(40, b"damage")
    with index.open("rb+") as file:
        file.seek(5 * 32 + 20)
        flipped = bytes(byte ^ 0xFF for byte in file.read(77))
        file.seek(5 * 32 + 20)
        file.write(flipped)
    for _ in range(2):
        cache = TensorCache(tmp_path)
        assert cache.sizes([each.key for each in all_records]).astype(bool).tolist() == [n != 5 for n in range(20)]
    assert all(cache.get(each.key) is not None for n, each in enumerate(all_records) if n != 5)
    assert [record.message for record in caplog.records] == [
        f"warning: cache file {index} is damaged in 4 places. Entries found again in its data: 3; "
        "others are made anew when they are needed."
    ]
    cache.put(all_records[5].key, TENSORS)
    cache.flush()
    assert len(TensorCache(tmp_path)) == len(list(records(tmp_path))) == 20


@pytest.mark.parametrize("why", ["held", pytest.param("read-only", marks=pytest.mark.skipif(
    os.name == "nt" or os.getuid() == 0, reason="the superuser may write anywhere"))])  # fmt: skip
def test_a_damaged_index_that_cannot_be_mended_is_told_once_and_the_rest_is_read(
    tmp_path: Path, filled: Callable[[int], TensorCache], caplog: pytest.LogCaptureFixture, why: str
) -> None:
    filled(20)
    writer = TensorCache(tmp_path)
    first = records(tmp_path)[0]
    if why == "held":
        writer.put(key(20), numbered(20))
    with first.index.open("rb+") as file:
        file.write(b"x")
    if why == "read-only":
        first.index.chmod(0o400)
    for _ in range(2):
        cache = TensorCache(tmp_path)
        assert cache.get(first.key) is None and len(cache) >= 19
    (told,) = [record.message for record in caplog.records]
    assert "is damaged in 1 place, and cannot be mended now" in told
    writer.flush()


def test_the_last_record_torn_at_any_byte_harms_no_other(tmp_path: Path, filled: Callable[[int], TensorCache]) -> None:
    """As a machine that stops leaves data and index: each cut at every byte, and the index ahead of its data."""
    filled(3)
    *whole, last = records(tmp_path)
    data, index = last.data.read_bytes(), last.index.read_bytes()

    def check(cut_data: int, cut_index: int, there: bool) -> None:
        last.data.write_bytes(data[:cut_data])
        last.index.write_bytes(index[:cut_index])
        cache = TensorCache(tmp_path)
        assert (cache.get(last.key) is not None) == there
        assert all(cache.get(each.key) is not None for each in whole)
        cache.put(key(7), numbered(7))
        if not there:
            cache.put(last.key, TENSORS)
        cache.flush()
        opened = TensorCache(tmp_path)
        assert opened.get(key(7)) is not None and (there or same(opened.get(last.key)))
        assert len(list(tmp_path.glob("*.data"))) == 1, "the shard is mended and taken up again"

    for cut in range(last.offset, len(data)):  # every byte of head, header and values
        check(cut, len(index), there=False)
    for cut in range(len(index) - 32, len(index)):
        check(len(data), cut, there=False)
    check(len(data), len(index), there=True)


@pytest.mark.parametrize("left", [0, 1, 31, 32, 40])
def test_data_cut_off_after_the_index_was_read_are_damage(
    tmp_path: Path, filled: Callable[[int], TensorCache], left: int
) -> None:
    cache = filled(2)
    first, last = records(tmp_path)
    assert cache.get(first.key) is not None
    os.truncate(last.data, last.offset + left)
    assert cache.get(last.key) is None and cache.get(first.key) is not None


def test_entries_are_ordinary_safetensors(tmp_path: Path) -> None:
    TensorCache(tmp_path).put(KEY, TENSORS)
    (record,) = records(tmp_path)
    assert same(load(record.payload()))


def test_a_cache_that_cannot_be_read_is_the_users_to_mend(tmp_path: Path, filled: Callable[[int], TensorCache]) -> None:
    filled(1)
    (record,) = records(tmp_path)
    record.data.unlink()
    record.data.mkdir()
    with pytest.raises(UserError, match=r"directory.*Delete the folder .*, which is always safe"):
        TensorCache(tmp_path).get(record.key)


def test_a_cache_that_cannot_be_written_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder", encoding="utf-8")
    with pytest.raises(UserError, match="cache_dir"):
        TensorCache(tmp_path / "cache").put(KEY, TENSORS)


def test_a_full_disk_is_told_and_what_was_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    cache = TensorCache(tmp_path)
    for number in range(4):
        cache.put(key(number), numbered(number))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(
            UserError, match=r"\.data.* could not be written: File too large.*cache in memory"
        ) as caught:
            cache.put(key(4), {"latents": torch.zeros(500)})
        cache.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.exit_code == Exit.DISK_FULL
    cache.put(key(5), numbered(5))
    cache.flush()
    opened = TensorCache(tmp_path)
    assert opened.sizes([key(number) for number in range(6)]).astype(bool).tolist() == [True] * 4 + [False, True]
    assert all(opened.get(key(number)) is not None for number in (0, 1, 2, 3, 5))


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_for_reading_only_is_read(tmp_path: Path, filled: Callable[[int], TensorCache]) -> None:
    filled(3)
    tmp_path.chmod(0o500)
    try:
        assert all(TensorCache(tmp_path).get(key(number)) is not None for number in range(3))
        with pytest.raises(UserError, match="may not do that there"):
            TensorCache(tmp_path).put(key(9), TENSORS)
    finally:
        tmp_path.chmod(0o700)


def test_nothing_half_written_is_left(tmp_path: Path, filled: Callable[[int], TensorCache]) -> None:
    for _ in range(3):
        filled(2)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".data", ".index"], "a small shard is taken up again"


def test_what_others_add_is_seen_and_what_they_remove_is_forgotten(
    tmp_path: Path, filled: Callable[[int], TensorCache]
) -> None:
    reader, writer = TensorCache(tmp_path), TensorCache(tmp_path)
    for number in range(40):  # so many that segments are put together
        assert reader.get(key(number)) is None
        writer.put(key(number), numbered(number))
        writer.flush()
        found = reader.get(key(number))
        assert found is not None and torch.equal(found["latents"], numbered(number)["latents"])
    assert len(reader) == 40
    shutil.rmtree(tmp_path)
    assert len(reader) == 0 and reader.get(key(0)) is None and reader.get(key(99)) is None
    writer.put(key(3), numbered(3))
    writer.flush()
    assert reader.get(key(3)) is not None and reader.get(key(4)) is None


def test_a_cache_deleted_while_it_is_filled_is_filled_on(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path / "cache")
    cache.put(key(0), numbered(0))
    shutil.rmtree(tmp_path / "cache")
    cache.put(key(1), numbered(1))
    cache.flush()
    opened = TensorCache(tmp_path / "cache")
    assert opened.get(key(0)) is None and opened.get(key(1)) is not None


def test_threads_may_share_it(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)

    def work(number: int) -> bool:
        cache.put(key(number), numbered(number))
        found = cache.get(key(number))
        return found is not None and torch.equal(found["latents"], numbered(number)["latents"])

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(200)))
    cache.flush()
    assert len(TensorCache(tmp_path)) == 200


def test_threads_may_read_more_shards_than_are_kept_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("library.data.cache.appending.SHARD_BYTES", 100)
    monkeypatch.setattr("library.data.cache.reading.OPEN_AT_ONCE", 2)
    filling = TensorCache(tmp_path)
    for number in range(30):
        filling.put(key(number), numbered(number))
    filling.flush()
    cache, before = TensorCache(tmp_path), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda each: cache.get(key(each % 30)), range(6000)))
    finally:
        sys.setswitchinterval(before)
    assert all(each is not None and each["latents"].item() == place % 30 for place, each in enumerate(found))


class Entries(Dataset):
    """A cache's entries by number; those from 30 on are added by the worker itself."""

    def __init__(self, cache: TensorCache) -> None:
        self.cache = cache

    def __len__(self) -> int:
        return 32

    def __getitem__(self, number: int) -> torch.Tensor:
        if number >= 30:
            self.cache.put(key(number), numbered(number))
        found = self.cache.get(key(number))
        assert found is not None
        return found["latents"]


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_workers_of_a_loader_read_it(tmp_path: Path, filled: Callable[[int], TensorCache], way: str) -> None:
    if way not in multiprocessing.get_all_start_methods():
        pytest.skip("not on this system")
    filled(20)
    cache = TensorCache(tmp_path)
    assert cache.get(key(0)) is not None
    for number in range(20, 30):
        cache.put(key(number), numbered(number))
    cache.flush()
    assert len(pickle.dumps(cache)) < 1000, "none of its tensors travels"
    loader = DataLoader(Entries(cache), batch_size=4, num_workers=1, multiprocessing_context=way)
    batches = list(loader)
    assert torch.equal(torch.cat(batches)[:, 0], torch.arange(32.0))
    assert cache.get(key(5)) is not None


def test_whatever_makes_latents_makes_their_key() -> None:
    placement = centred((100, 80), (64, 64))
    base = {
        "content": "abc",
        "fingerprint": "vae",
        "placement": placement,
        "background_color": "white",
        "interpolation": "area",
        "mask": "",
    }
    others = [
        {"content": "abd"},
        {"fingerprint": "other vae"},
        {"placement": mirrored(placement)},
        {"placement": replace(placement, left=placement.left + 1)},
        {"placement": centred((100, 80), (64, 32))},
        {"background_color": "black"},
        {"interpolation": "lanczos"},
        {"mask": "alpha"},
        {"content": "abcvae", "fingerprint": ""},
    ]
    keys = [latent_key(**base), *(latent_key(**{**base, **other}) for other in others)]
    assert len(set(keys)) == len(keys)
    assert latent_key(**base) == keys[0]


def test_whatever_makes_conditioning_makes_its_key() -> None:
    keys = {
        text_key("a", "m"),
        text_key("b", "m"),
        text_key("a", "n"),
        text_key("am", ""),
    }
    assert len(keys) == 4
