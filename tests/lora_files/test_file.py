"""LoRA files: bytes, hashes, precision, mistakes."""

from __future__ import annotations

import hashlib
import json
import struct

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save

from library.core.errors import UserError
from library.lora_files.alphas import with_one_alpha
from library.lora_files.file import read_lora, save_lora
from library.lora_files.serialize import contents, header
from library.lora_files.sidecars import card, save_card, save_preview


@pytest.fixture
def tensors():
    draw = torch.Generator().manual_seed(0)
    return {
        "lora_te_a.lora_up.weight": torch.randn(700, 300, generator=draw),
        "lora_te_a.lora_down.weight": torch.randn(300, 700, generator=draw),
        "lora_te_a.alpha": torch.tensor(4.0),
    }


def test_round_trip(tensors, tmp_path):
    save_lora(tmp_path / "sub" / "a.safetensors", tensors, {"ss_note": "ä"})
    found, metadata = read_lora(tmp_path / "sub" / "a.safetensors")
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in found)
    assert metadata["ss_note"] == "ä"
    assert load_file(tmp_path / "sub" / "a.safetensors").keys() == tensors.keys()
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a.safetensors"]


def test_precision(tensors, tmp_path):
    save_lora(tmp_path / "a.safetensors", tensors, {}, torch.float16)
    found, _ = read_lora(tmp_path / "a.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.float16}
    torch.testing.assert_close(found["lora_te_a.alpha"].float(), torch.tensor(4.0))


def test_same_content_gives_same_bytes(tensors, tmp_path):
    metadata = {f"ss_{number}": str(number) for number in range(40)}
    for name in ("a", "b"):
        save_lora(tmp_path / name, tensors, metadata)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_is_what_safetensors_writes(tensors):
    for metadata in ({}, {"key": '{"ü": "quo\\"te"}'}):
        assert b"".join([header(tensors, metadata), *contents(tensors)]) == save(tensors, metadata or None)


def test_hashes_are_those_of_sd_scripts(tensors, tmp_path):
    save_lora(tmp_path / "a.safetensors", tensors, {"ss_seed": "1", "modelspec.title": "not in the legacy hash"})
    content = (tmp_path / "a.safetensors").read_bytes()
    metadata = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])["__metadata__"]
    data = content[8 + struct.unpack("<Q", content[:8])[0] :]
    assert metadata["sshs_model_hash"] == hashlib.sha256(data).hexdigest()
    assert metadata["modelspec.hash_sha256"] == "0x" + metadata["sshs_model_hash"]
    immutable = save(tensors, {"ss_seed": "1"})
    assert metadata["sshs_legacy_hash"] == hashlib.sha256(immutable[0x100000:0x110000]).hexdigest()[:8]
    assert len(immutable) > 0x110000


@pytest.mark.parametrize("content", [b"", b"no header", struct.pack("<Q", 5) + b"{]", b"<html>not found</html>"])
def test_a_file_that_is_none(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.safetensors cannot be read"):
        read_lora(tmp_path / "a.safetensors")


def test_a_file_cut_short(tensors, tmp_path):
    save_lora(tmp_path / "a.safetensors", tensors, {})
    whole = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "b.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"b\.safetensors cannot be read"):
        read_lora(tmp_path / "b.safetensors")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_lora(tmp_path / "a.safetensors")


def test_one_alpha_keeps_what_the_file_does():
    draw = torch.Generator().manual_seed(0)
    alphas = {"a": 2.0, "b": 2.0, "c": 3.0, "conv": 1.0}
    tensors = {f"{key}.alpha": torch.tensor(alpha) for key, alpha in alphas.items()}
    tensors |= {f"{key}.lora_up.weight": torch.randn(4, 2, generator=draw) for key in "abc"}
    tensors["conv.lora_up.weight"] = torch.randn(4, 2, 1, 1, generator=draw)
    changed = with_one_alpha(tensors)
    assert {key: float(changed[f"{key}.alpha"]) for key in alphas} == {"a": 2.0, "b": 2.0, "c": 2.0, "conv": 1.0}
    for key, alpha in alphas.items():
        before, after = (
            tensors[f"{key}.lora_up.weight"] * alpha,
            changed[f"{key}.lora_up.weight"] * changed[f"{key}.alpha"],
        )
        torch.testing.assert_close(after, before)
    plain = {name: tensor for name, tensor in tensors.items() if not name.startswith("c.")}
    assert with_one_alpha(plain) == plain


def test_sidecars(tmp_path):
    lora = tmp_path / "my.lora-000002.safetensors"
    path = save_card(lora, card("sdxl", "kungfustyle", description="Größe", negative="blurry", notes="n"))
    assert path == tmp_path / "my.lora-000002.json"
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "description": "Größe",
        "sd version": "SDXL",
        "activation text": "kungfustyle",
        "preferred weight": 1.0,
        "negative text": "blurry",
        "notes": "n",
    }
    path = save_preview(lora, Image.new("RGB", (3, 2), "red"))
    assert path == tmp_path / "my.lora-000002.preview.png"
    assert Image.open(path).size == (3, 2)


def test_factors_of_whole_rows_and_columns_keep_their_precision(tmp_path):
    tensors = {
        "a.dora_scale": torch.full((1, 3), 1.001),
        "a.rescale": torch.full((3, 1), 1.001),
        "a.oft_blocks": torch.ones(3, 1, 1),
    }
    save_lora(tmp_path / "x.safetensors", tensors, {}, torch.bfloat16)
    found, _ = read_lora(tmp_path / "x.safetensors")
    assert found["a.oft_blocks"].dtype == torch.bfloat16
    assert all(torch.equal(found[name], tensors[name]) for name in ("a.dora_scale", "a.rescale"))
