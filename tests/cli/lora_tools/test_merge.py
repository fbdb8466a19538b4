"""`dojo lora merge` into one LoRA: judged by the weights that it makes, and by what a model does with them."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from library.lora_files.file import read_lora, save_lora
from tests.cli.lora_tools.conftest import dense

NAMES = ("sd15", "sd2", "sdxl")
CONV = {"network_dim": 2, "network_alpha": 1, "network_args": {"conv_dim": 3}}


@pytest.mark.parametrize("name", NAMES)
def test_without_a_rank_is_exact(kit, dojo, tmp_path, name):
    of = kit(name)
    a, b, out = of.lora(0, network_dim=3, network_alpha=2), of.lora(1, **CONV), tmp_path / "out.safetensors"
    assert dojo("lora", "merge", f"{a}:0.8", f"{b}:-0.6", "--out", out) == 0
    one, other, found = dense(a), dense(b), dense(out)
    assert found.keys() == one.keys() | other.keys()
    for key, change in found.items():
        expected = 0.8 * one.get(key, 0) - 0.6 * other[key]
        torch.testing.assert_close(change, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        of.outputs(None, (out, 1.0)), of.outputs(None, (a, 0.8), (b, -0.6)), rtol=1e-4, atol=1e-4
    )
    tensors, metadata = read_lora(out)
    alphas = {float(tensor) for key, tensor in tensors.items() if key.endswith(".alpha")}
    assert alphas == {5.0} == {float(metadata["ss_network_alpha"])} and metadata["ss_network_dim"] == "5"
    assert json.loads(metadata["ss_network_args"])["conv_dim"] == "3"
    assert json.loads(metadata["ss_merged_from"])[1] | {"hash": ""} == {"file": b.name, "strength": -0.6, "hash": ""}
    assert metadata["ss_base_model_version"] == read_lora(a)[1]["ss_base_model_version"]


def test_in_half_precision_differs_by_rounding_alone(kit, dojo, tmp_path):
    of, out = kit("sd15"), tmp_path / "out.safetensors"
    a, b = (of.lora(seed, torch.bfloat16, network_dim=4) for seed in (0, 1))
    assert dojo("lora", "merge", f"{a}:0.5", b, "--out", out) == 0
    assert {each.dtype for name, each in read_lora(out)[0].items() if not name.endswith("alpha")} == {torch.bfloat16}
    found, one, other = dense(out), dense(a), dense(b)
    for key, change in found.items():
        expected = 0.5 * one[key] + other[key]
        assert (change - expected).norm() < 0.004 * expected.norm()
    assert dojo("lora", "merge", f"{a}:0.5", b, "--out", out, "--dtype", "fp32") == 0
    for key, change in dense(out).items():
        torch.testing.assert_close(change, 0.5 * one[key] + other[key], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_with_a_rank_is_the_nearest_of_that_rank(kit, dojo, capsys, tmp_path, name):
    of, out = kit(name), tmp_path / "out.safetensors"
    a, b = of.lora(0, network_dim=3, network_alpha=2), of.lora(1, **CONV)
    assert dojo("lora", "merge", f"{a}:0.8", f"{b}:0.6", "--out", out, "--rank", 4, "--conv_rank", 2) == 0
    one, other, lost, energy = dense(a), dense(b), 0.0, 0.0
    for key, change in dense(out).items():
        expected = 0.8 * one.get(key, 0) + 0.6 * other[key]
        values = torch.linalg.svdvals(expected)
        rank = read_lora(out)[0][f"{key}.lora_down.weight"].shape[0]
        spatial = read_lora(out)[0][f"{key}.lora_down.weight"].shape[2:] == (3, 3)
        assert rank == min(2 if spatial else 4, 5 if key in one else 3 if spatial else 2)
        assert float((change - expected).norm()) == pytest.approx(float(values[rank:].norm()), rel=1e-3, abs=1e-5)
        lost, energy = lost + float(values[rank:].square().sum()), energy + float(values.square().sum())
    (total,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("all "))
    assert float(total.split()[-1].removesuffix("%")) / 100 == pytest.approx((1 - lost / energy) ** 0.5, abs=1e-4)


def test_other_kinds_are_added_through_their_own_change(kit, dojo, capsys, tmp_path):
    of, out = kit("sd15"), tmp_path / "out.safetensors"
    lora, loha = of.lora(0, network_dim=3), of.lora(2, network_module="networks.loha", network_dim=2)
    merging = ["lora", "merge", f"{lora}:0.7", f"{loha}:0.4", "--out", out, "--base", of.model("file")]
    assert dojo(*merging) == 2
    assert "Give --rank" in capsys.readouterr().err and not out.exists()
    assert dojo(*merging, "--rank", 64) == 0
    expected = of.outputs(None, (lora, 0.7), (loha, 0.4))
    torch.testing.assert_close(of.outputs(None, (out, 1.0)), expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(of.outputs(None, (lora, 0.7)), expected, rtol=1e-2, atol=1e-2)


def test_shapes_that_are_not_the_published_ones_ask_for_the_model(kit, dojo, capsys, tmp_path):
    loha, out = kit("sd15").lora(2, network_module="networks.loha", network_dim=2), tmp_path / "out.safetensors"
    assert dojo("lora", "merge", loha, "--out", out, "--rank", 4) == 2
    told = capsys.readouterr().err
    assert "does not fit a weight of the shape" in told and "Give the model that the LoRA is for, with --base" in told


def test_layers_can_be_taken_from_one_file_each(kit, dojo, capsys, tmp_path):
    of, out = kit("sdxl"), tmp_path / "out.safetensors"
    content, style = of.lora(0, network_dim=2), of.lora(1, network_dim=3)
    only = ["--only", "up_blocks.0.attentions.0, te1", "--only", "OUT01"]
    assert dojo("lora", "merge", content, style, "--out", out, *only) == 0
    one, other, found = dense(content), dense(style), dense(out)
    for key, change in found.items():
        expected = other if key.startswith("lora_unet_output_blocks_1_1_") else one
        assert key.startswith(("lora_unet_output_blocks_0_1_", "lora_unet_output_blocks_1_1_", "lora_te1_"))
        torch.testing.assert_close(change, expected[key], rtol=1e-5, atol=1e-7)
    assert {key.split("_")[1] for key in found} == {"unet", "te1"}
    assert dojo("lora", "merge", content, style, "--out", out, "--only", "OUT99") == 2
    assert "--only 'OUT99' fits no layer" in capsys.readouterr().err


def test_sd_scripts_words_are_understood(kit, dojo, tmp_path):
    of, ours, theirs = kit("sd15"), tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    a, b = of.lora(0, network_dim=3, network_alpha=2), of.lora(1, **CONV)
    assert dojo("lora", "merge", f"{a}:0.8", f"{b}:0.6", "--out", ours, "--rank", 2, "--dtype", "fp16") == 0
    words = ["--models", a, b, "--ratios", 0.8, 0.6, "--save_to", theirs, "--new_rank", 2, "--save_precision", "fp16"]
    assert dojo("lora", "merge", *words) == 0
    one, other = read_lora(ours)[0], read_lora(theirs)[0]
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_what_readers_show_is_put_together(kit, dojo, tmp_path):
    of, out = kit("sd15"), tmp_path / "both.safetensors"
    files = []
    for number, (trigger, tags) in enumerate(
        [("alexander", {"a": {"x": 2}}), ("kungfustyle", {"a": {"x": 1, "y": 5}})]
    ):
        tensors, metadata = read_lora(of.lora(number, network_dim=2))
        files.append(tmp_path / f"{trigger}.safetensors")
        entries = {
            "modelspec.trigger_phrase": trigger,
            "modelspec.title": trigger.title(),
            "ss_tag_frequency": json.dumps(tags),
        }
        save_lora(files[-1], tensors, {**metadata, **entries})
    assert dojo("lora", "merge", *files, "--out", out) == 0
    metadata = read_lora(out)[1]
    assert metadata["modelspec.trigger_phrase"] == "alexander, kungfustyle"
    assert metadata["modelspec.merged_from"] == "Alexander, Kungfustyle"
    assert json.loads(metadata["ss_tag_frequency"]) == {"a": {"x": 3, "y": 5}}
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora" and metadata["modelspec.title"] == "both"


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_files_under_other_names_are_read(kit, dojo, tmp_path, name):
    of, theirs, out = kit(name), tmp_path / "theirs.safetensors", tmp_path / "out.safetensors"
    a, b = of.lora(0, network_dim=3, network_alpha=2), of.lora(1, network_dim=2)
    assert dojo("lora", "convert", a, theirs, "--to", "diffusers") == 0
    assert dojo("lora", "merge", f"{theirs}:0.8", f"{b}:0.6", "--out", out, "--rank", 5) == 0
    one, other, found = dense(a), dense(b), dense(out)
    assert found.keys() == one.keys() | other.keys()
    for key, change in found.items():
        torch.testing.assert_close(change, 0.8 * one[key] + 0.6 * other[key], rtol=1e-4, atol=1e-5)


def broken(tensors, name):
    """Kinds of damage, by name."""
    key = next(each for each in tensors if each.endswith("lora_up.weight"))
    tensors = {each: tensor.clone() for each, tensor in tensors.items()}
    if name == "half":
        del tensors[key]
    elif name == "nan":
        tensors[key][0] = torch.nan
    elif name == "rank":
        tensors[key] = tensors[key][:, :1].clone()
    else:
        tensors["model.diffusion_model.out.0.weight"] = torch.ones(3)
    return tensors


@pytest.mark.parametrize("damage", ["half", "nan", "rank", "stranger"])
def test_damaged_files_are_told_and_leave_nothing(kit, dojo, capsys, tmp_path, damage):
    good = kit("sd15").lora(0, network_dim=3)
    tensors, metadata = read_lora(good)
    bad = tmp_path / "bad.safetensors"
    save_file(broken(tensors, damage), bad, metadata)
    for more in ([], ["--rank", 2], ["--into", kit("sd15").model("file")]):
        assert dojo("lora", "merge", good, bad, "--out", tmp_path / "out.safetensors", *more) == 2
        assert "bad.safetensors" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == [bad]


def test_what_does_not_belong_together_is_refused(kit, dojo, capsys, tmp_path):
    a, b, out = kit("sd15").lora(0, network_dim=2), kit("sdxl").lora(0, network_dim=2), tmp_path / "out.safetensors"
    for words, told in [
        ([a, b, "--out", out], "is for sdxl"),
        ([a, "--out", a], "never written over"),
        ([a, "--out", tmp_path / "out.pt"], "must end in .safetensors"),
        ([a, "--out", out, "--conv_rank", 2], "--conv_rank needs --rank"),
        (["--out", out], "nothing to merge"),
        (["--models", a, "--ratios", 1, 2, "--out", out], "2 values for 1"),
        ([a, a, a, "--only", "te1", "--only", "unet", "--out", out], "2 times for 3 files"),
        ([a, "--into", kit("sdxl").model("file"), "--out", out], "is a model of the family sdxl"),
        ([tmp_path / "none.safetensors", "--out", out], "does not exist"),
    ]:
        assert dojo("lora", "merge", *words) == 2
        assert told in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
