"""Safetensors files written anew with some tensors changed."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from library.core.errors import UserError
from library.models.rewriting.rewrite import rewrite, rewritten_size
from library.models.weights import read_header


@pytest.fixture
def source(tmp_path):
    draw = torch.Generator().manual_seed(0)
    tensors = {
        "a": torch.randn(4, 5, generator=draw),
        "b": torch.randn(3, 2, generator=draw).to(torch.bfloat16),
        "c": torch.randn(7, generator=draw).to(torch.float8_e4m3fn),
        "ids": torch.arange(6),
        "mark": torch.zeros(0),
        "scalar": torch.tensor(2.5, dtype=torch.float16),
    }
    save_file(tensors, tmp_path / "source.safetensors", {"title": "früher"})
    return tmp_path / "source.safetensors", tensors


def same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(bits(one), bits(other))


def bits(tensor):
    return tensor.contiguous().flatten().view(torch.uint8)


def test_what_nothing_changes_keeps_its_bytes(source, tmp_path):
    path, tensors = source
    written = []
    rewrite(path, read_header(path), tmp_path / "new", {"b": lambda b: b.add_(1)}, {"note": "x"}, tick=written.append)
    found = load_file(tmp_path / "new")
    assert found.keys() == tensors.keys()
    assert all(same(found[name], tensor) for name, tensor in tensors.items() if name != "b")
    assert same(found["b"], (tensors["b"].float() + 1).to(torch.bfloat16))
    assert sum(written) == rewritten_size(read_header(path), None) == sum(each.nbytes for each in tensors.values())
    with safe_open(tmp_path / "new", framework="pt") as file:
        assert file.metadata() == {"note": "x"}


def test_another_type_is_for_fractions_of_two_bytes_and_more(source, tmp_path):
    path, tensors = source
    rewrite(path, read_header(path), tmp_path / "new", {"a": lambda a: a.mul_(3)}, {}, torch.float16)
    found = load_file(tmp_path / "new")
    assert same(found["a"], (tensors["a"] * 3).half()) and same(found["b"], tensors["b"].half())
    assert same(found["c"], tensors["c"]) and same(found["ids"], tensors["ids"])
    assert sum(each.nbytes for each in found.values()) == rewritten_size(read_header(path), torch.float16)


def test_is_rounded_once(source, tmp_path):
    path, tensors = source
    rewrite(path, read_header(path), tmp_path / "new", {"c": lambda c: c.add_(0.01).sub_(0.01)}, {})
    assert same(load_file(tmp_path / "new")["c"], (tensors["c"].float() + 0.01 - 0.01).to(torch.float8_e4m3fn))


def test_values_too_large_for_the_type_are_told(source, tmp_path):
    path, _ = source
    with pytest.raises(UserError, match=r"'scalar' has values up to 2\.5e\+05, which do not fit into float16"):
        rewrite(path, read_header(path), tmp_path / "new", {"scalar": lambda x: x.mul_(1e5)}, {})
