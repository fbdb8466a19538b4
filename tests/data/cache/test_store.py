from __future__ import annotations

import pickle
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from library.core.errors import UserError
from library.data.cache.keys import latent_key, text_key
from library.data.cache.store import TensorCache
from library.data.pictures.placement import centred, mirrored

KEY = text_key("a caption", "model")
TENSORS = {"mean": torch.randn(4, 8, 8), "std": torch.randn(4, 8, 8).to(torch.bfloat16)}


def same(found: dict[str, torch.Tensor] | None) -> bool:
    return found is not None and all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in TENSORS.items()
    )


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_is_put_is_got(tmp_path: Path, on_disk: bool) -> None:
    cache = TensorCache(tmp_path / "cache" if on_disk else None)
    assert cache.get(KEY) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.put(KEY, TENSORS)
        assert same(cache.get(KEY))
        found = cache.get(KEY)
        assert found is not None
        found["mean"].zero_()
    assert same(cache.get(KEY))
    assert same(pickle.loads(pickle.dumps(cache)).get(KEY))
    assert (tmp_path / "cache" / KEY[:2] / f"{KEY}.safetensors").exists() == on_disk


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:7], lambda data: b"", lambda data: b"x" * 99]
)
def test_a_damaged_file_counts_as_none_and_goes(tmp_path: Path, damage) -> None:
    cache = TensorCache(tmp_path)
    cache.put(KEY, TENSORS)
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(damage(path.read_bytes()))
    assert cache.get(KEY) is None
    assert not path.exists()
    cache.put(KEY, TENSORS)
    assert same(cache.get(KEY))


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    cache.put(KEY, {"mean": torch.randn(1, 2, 2), "std": torch.randn(1, 2, 2)})
    (path,) = tmp_path.rglob("*.safetensors")
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert cache.get(KEY) is None and not path.exists(), bit
    path.write_bytes(whole)
    assert cache.get(KEY) is not None


def test_entries_are_ordinary_safetensors(tmp_path: Path) -> None:
    TensorCache(tmp_path).put(KEY, TENSORS)
    (path,) = tmp_path.rglob("*.safetensors")
    assert same(load_file(path))


def test_a_cache_that_cannot_be_read_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / KEY[:2] / f"{KEY}.safetensors").mkdir(parents=True)
    with pytest.raises(UserError, match=r"directory.*Delete the folder .*, which is always safe"):
        TensorCache(tmp_path).get(KEY)


def test_a_cache_that_cannot_be_written_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder", encoding="utf-8")
    with pytest.raises(UserError, match="cache_dir"):
        TensorCache(tmp_path / "cache").put(KEY, TENSORS)


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    TensorCache(tmp_path).put(KEY, TENSORS)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{KEY}.safetensors"]


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
        text_key("a", "m", clip_skip=2),
        text_key("a", "m", max_token_length=2),
    }
    assert len(keys) == 6
