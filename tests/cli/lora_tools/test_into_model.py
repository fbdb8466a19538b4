"""`dojo lora merge --into`: the checkpoint that it writes against the same merge of a loaded model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from library.lora_files.file import read_lora
from library.models.rewriting.stored_places import open_model, weight_files
from library.models.weights import read_header
from networks.files.merge import merge_lora
from tests.cli.lora_tools.conftest import hosts_of

WAYS = [
    ("sd15", "folder", "fp32"),
    ("sd15", "file", "bf16"),
    ("sd2", "file", "fp32"),
    ("sdxl", "file", "fp32"),
    ("sdxl", "folder", "bf16"),
]


@pytest.mark.parametrize(("name", "layout", "dtype"), WAYS, ids=str)
def test_has_the_weights_of_a_merge_in_memory(kit, dojo, tmp_path, name, layout, dtype):
    of = kit(name)
    source, out = of.model(layout, dtype), tmp_path / ("out.safetensors" if layout == "file" else "out")
    lora = of.lora(1, network_dim=2, network_args={"conv_dim": 2})
    assert dojo("lora", "merge", f"{lora}:0.7", "--into", source, "--out", out) == 0
    expected, found = of.load(source), of.load(out)
    merge_lora(lora, hosts_of(expected), expected.family, 0.7)
    rounded = torch.bfloat16 if dtype == "bf16" else torch.float32
    changed = 0
    for host, module in hosts_of(expected).items():
        state, before = hosts_of(found)[host].state_dict(), hosts_of(of.load(source))[host].state_dict()
        for key, value in module.state_dict().items():
            torch.testing.assert_close(
                state[key].to(rounded), value.to(rounded), rtol=1e-5 if dtype == "fp32" else 8e-3, atol=1e-6
            )
            changed += not torch.equal(state[key], before[key])
    assert changed == len({each.partition(".")[0] for each in read_lora(lora)[0]})
    assert torch.equal(
        found.encode_images(torch.zeros(1, 3, 64, 64)).mean, expected.encode_images(torch.zeros(1, 3, 64, 64)).mean
    )


@pytest.mark.parametrize("layout", ["folder", "file"])
def test_everything_else_is_bitwise_as_it_was(kit, dojo, tmp_path, layout):
    of = kit("sd15")
    source, out = of.model(layout, "bf16"), tmp_path / ("out.safetensors" if layout == "file" else "out")
    lora = of.lora(1, network_dim=2)
    assert dojo("lora", "merge", lora, "--into", source, "--out", out) == 0
    keys = {each.partition(".")[0] for each in read_lora(lora)[0]}
    for file in weight_files(open_model(str(source), "--into")[0]):
        new = out if layout == "file" else out / file.relative_to(source)
        assert [(each.key, each.shape, each.dtype) for each in in_order(file)] == [
            (each.key, each.shape, each.dtype) for each in in_order(new)
        ]
        with safe_open(file, framework="pt") as old, safe_open(new, framework="pt") as other:
            differing = [each for each in old.keys() if not torch.equal(old.get_tensor(each), other.get_tensor(each))]  # noqa: SIM118
        assert len(differing) == (
            0 if "vae" in file.parts else len(keys) if layout == "file" else expected_in(file, keys)
        )
    if layout == "folder":
        names = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
        assert names == {path.relative_to(out) for path in out.rglob("*") if path.is_file()}
        same = [name for name in names if name.suffix != ".safetensors"]
        assert same and all((source / name).read_bytes() == (out / name).read_bytes() for name in same)


def in_order(file: Path):
    return sorted(read_header(file).tensors.values(), key=lambda each: each.begin)


def expected_in(file: Path, keys: set[str]) -> int:
    return sum(key.startswith("lora_unet" if "unet" in file.parts else "lora_te") for key in keys)


def test_the_metadata_says_what_was_merged_and_keeps_the_rest(kit, dojo, tmp_path):
    of, out = kit("sd15"), tmp_path / "out.safetensors"
    source = tmp_path / "source.safetensors"
    with safe_open(of.model("file"), framework="pt") as file:
        from safetensors.torch import save_file

        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        save_file(tensors, source, {"modelspec.title": "Base", "modelspec.hash_sha256": "0x00"})
    lora = of.lora(1, network_dim=2)
    assert dojo("lora", "merge", f"{lora}:0.5", "--into", source, "--out", out) == 0
    metadata = read_header(out).metadata
    assert metadata["modelspec.title"] == "Base" and "modelspec.hash_sha256" not in metadata
    assert json.loads(metadata["ss_merged_from"])[0]["strength"] == 0.5
    assert metadata["modelspec.merged_from"] == lora.stem


def test_kinds_that_depend_on_the_weights_see_them(kit, dojo, tmp_path):
    of = kit("sd15")
    for kind in ("networks.loha", "networks.dora", "networks.ia3"):
        lora = of.lora(3, strength=0.2, network_module=kind, network_dim=2)
        out = tmp_path / f"{kind}.safetensors"
        assert dojo("lora", "merge", f"{lora}:0.6", "--into", of.model("file"), "--out", out) == 0
        expected = of.outputs(of.model("file"), (lora, 0.6))
        torch.testing.assert_close(of.outputs(out), expected, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(of.outputs(of.model("file")), expected, rtol=1e-2, atol=1e-2)


def test_another_type_and_copies_in_another_precision(kit, dojo, capsys, tmp_path):
    of, source, out = kit("sd15"), tmp_path / "source", tmp_path / "out"
    shutil.copytree(of.model("folder"), source)
    shutil.copyfile(
        source / "unet" / "diffusion_pytorch_model.safetensors",
        source / "unet" / "diffusion_pytorch_model.fp16.safetensors",
    )
    (source / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"old")
    lora = of.lora(1, network_dim=2)
    assert dojo("lora", "merge", lora, "--into", source, "--out", out, "--dtype", "fp16") == 0
    told = capsys.readouterr().out
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in told and "vae/diffusion_pytorch_model.bin" in told
    assert {each.dtype for file in weight_files(open_model(str(out), "--into")[0]) for each in in_order(file)} == {
        "F16"
    }
    assert not (out / "vae" / "diffusion_pytorch_model.bin").exists()
    torch.testing.assert_close(of.outputs(out), of.outputs(source, (lora, 1.0)), rtol=0.02, atol=0.02)


def test_places_that_must_not_be_written(kit, dojo, capsys, tmp_path):
    of = kit("sd15")
    file, folder, lora = of.model("file"), of.model("folder"), of.lora(1, network_dim=2)
    for model, out, told in [
        (file, file, "never written over"),
        (file, tmp_path / "out", "must end in .safetensors"),
        (folder, tmp_path / "out.safetensors", "the name of a new folder"),
        (folder, folder, "is there already"),
        (tmp_path / "none.safetensors", tmp_path / "out.safetensors", "there is no file or folder"),
    ]:
        before = file.stat().st_mtime_ns
        assert dojo("lora", "merge", lora, "--into", model, "--out", out) == 2
        assert told in capsys.readouterr().err and file.stat().st_mtime_ns == before
    assert not any(tmp_path.iterdir())


def test_a_disk_without_room_is_told_before_the_work(kit, dojo, capsys, tmp_path, monkeypatch):
    of = kit("sd15")
    monkeypatch.setattr("library.core.disk.free_space", lambda path: 1000)
    assert (
        dojo(
            "lora",
            "merge",
            of.lora(1, network_dim=2),
            "--into",
            of.model("file"),
            "--out",
            tmp_path / "out.safetensors",
        )
        == 5
    )
    assert "would not fit" in capsys.readouterr().err and not any(tmp_path.iterdir())
