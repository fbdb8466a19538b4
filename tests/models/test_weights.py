from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from library.core.errors import UserError
from library.models import weights as under_test
from library.models.weights import Placement, fill, fingerprint, read_header, read_tensors, unchanged


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.arange(12.0).reshape(3, 4), "bias": torch.ones(3)}, path, metadata={"made": "here"})
    return path


def empty_linear() -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(4, 3)


def test_header_tells_names_shapes_and_metadata(file):
    header = read_header(file)
    assert {name: stored.shape for name, stored in header.tensors.items()} == {"weight": (3, 4), "bias": (3,)}
    assert header.metadata == {"made": "here"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fill_gives_the_stored_values_in_the_wanted_type(file, dtype):
    linear = fill(empty_linear(), unchanged(read_header(file).tensors.values()), dtype, torch.device("cpu"))
    assert torch.equal(linear.weight, torch.arange(12.0).reshape(3, 4).to(dtype))
    assert linear.bias.dtype == dtype
    assert not linear.weight.requires_grad
    assert not linear.training


def test_nothing_is_copied_where_the_type_is_already_right(file):
    weights = unchanged(read_header(file).tensors.values())
    linear = fill(empty_linear(), weights, torch.float32, torch.device("cpu"))
    with file.open("rb+") as stream:  # write through the mapping's back
        stream.seek(-4, 2)
        stream.write(torch.tensor([77.0]).numpy().tobytes())
    assert 77.0 in torch.cat([linear.weight.flatten(), linear.bias])


def test_every_tensor_is_read_whatever_the_size_of_the_groups(file, monkeypatch):
    stored = list(read_header(file).tensors.values())
    for size in (1, 1 << 30):
        monkeypatch.setattr(under_test, "GROUP_BYTES", size)
        assert {item.key: tensor.sum().item() for item, tensor in read_tensors(stored)} == {"weight": 66.0, "bias": 3.0}


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"weight": torch.zeros(3, 4)}, "lacks 'bias'"),
        ({"weight": torch.zeros(3, 4), "bias": torch.zeros(3), "gamma": torch.zeros(1)}, "surplus 'gamma'"),
        ({"weight": torch.zeros(3, 5), "bias": torch.zeros(3)}, r"shape \(3, 5\) where \(3, 4\)"),
    ],
)
def test_weights_that_do_not_fit_are_the_users_to_know(tmp_path, tensors, told):
    path = tmp_path / "wrong.safetensors"
    save_file(tensors, path)
    with pytest.raises(UserError, match=told):
        fill(empty_linear(), unchanged(read_header(path).tensors.values()), torch.float32, torch.device("cpu"))


def test_placements_rename_and_reshape(file):
    stored = read_header(file).tensors
    weights = {
        stored["weight"]: (Placement("bias", lambda value: value[:, 0]), Placement("weight")),
    }
    linear = fill(empty_linear(), weights, torch.float32, torch.device("cpu"))
    assert linear.bias.tolist() == [0.0, 4.0, 8.0]


def damaged(file, how):
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    if how == "cut short":
        return content[:-5]
    if how == "empty":
        return b""
    if how == "a web page":
        return b"<!DOCTYPE html><html><body>Log in to download</body></html>"
    header["weight"]["data_offsets"][1] += 4
    changed = json.dumps(header).encode()
    return len(changed).to_bytes(8, "little") + changed + content[8 + length :]


@pytest.mark.parametrize("how", ["cut short", "empty", "a web page", "wrong offsets"])
def test_damaged_files_are_reported_plainly(file, how):
    file.write_bytes(damaged(file, how))
    with pytest.raises(UserError, match="not a readable safetensors file"):
        read_header(file)


@pytest.mark.parametrize("ending", [".ckpt", ".pt", ".bin"])
def test_pickles_are_refused_before_they_are_opened(tmp_path, ending):
    with pytest.raises(UserError, match="pickle"):
        read_header(tmp_path / f"model{ending}")


def test_fingerprint_depends_on_every_byte_and_not_on_the_folder(file, tmp_path):
    def of(path):
        return fingerprint(unchanged(read_header(path).tensors.values()))

    copy = tmp_path / "elsewhere" / "copy.safetensors"
    copy.parent.mkdir()
    copy.write_bytes(file.read_bytes())
    assert of(copy) == of(file)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    assert of(copy) != of(file)
