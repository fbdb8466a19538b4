"""Cache entries: whatever happens to their files, what was put comes back, or nothing."""

from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from library.data.cache.keys import text_key
from library.data.cache.store import TensorCache
from tests.fuzz.strategies import damaged, fuzzed

KEY = text_key("a knight", "model")
TENSORS = {"mean": torch.arange(32.0).reshape(2, 4, 4), "std": torch.ones(2, 4, 4, dtype=torch.bfloat16)}


@fuzzed(80)
@given(data=st.data())
def test_a_damaged_entry_is_whole_or_none(data: st.DataObject, tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    cache.put(KEY, TENSORS)
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(data.draw(damaged(file.read_bytes()) | st.binary(max_size=300)))
    found = cache.get(KEY)
    if found is None:
        assert not file.exists()
    else:
        assert found.keys() == TENSORS.keys()
        assert all(
            torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in TENSORS.items()
        )
