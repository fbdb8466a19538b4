"""Cache entries: whatever happens to their files, what was put comes back, or nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from library.data.cache.keys import text_key
from library.data.cache.store import TensorCache, Tensors
from tests.fuzz.strategies import damaged, fuzzed

KEY = text_key("a knight", "model")
OTHER = text_key("a squire", "model")
OTHERS = {"pooled": torch.arange(6.0)}
TENSORS = {"mean": torch.arange(32.0).reshape(2, 4, 4), "std": torch.ones(2, 4, 4, dtype=torch.bfloat16)}


@fuzzed(80)
@given(data=st.data(), suffix=st.sampled_from([".data", ".index"]))
def test_a_damaged_shard_gives_what_was_put_or_nothing(data: st.DataObject, suffix: str, tmp_path: Path) -> None:
    """And takes new entries."""
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    cache = TensorCache(tmp_path / "cache")
    cache.put(OTHER, OTHERS)
    cache.put(KEY, TENSORS)
    cache.flush()
    (file,) = tmp_path.rglob(f"*{suffix}")
    file.write_bytes(data.draw(damaged(file.read_bytes()) | st.binary(max_size=300)))
    opened = TensorCache(tmp_path / "cache")
    for key, tensors in ((KEY, TENSORS), (OTHER, OTHERS)):
        found = opened.get(key)
        assert found is None or same(found, tensors)
        if found is None:
            assert opened.sizes([key]).tolist() == [0]
            opened.put(key, tensors)
    opened.flush()
    for key, tensors in ((KEY, TENSORS), (OTHER, OTHERS)):
        assert same(TensorCache(tmp_path / "cache").get(key), tensors)


def same(found: Tensors | None, tensors: Tensors) -> bool:
    return (
        found is not None
        and found.keys() == tensors.keys()
        and all(torch.equal(found[name], it) and found[name].dtype == it.dtype for name, it in tensors.items())
    )
