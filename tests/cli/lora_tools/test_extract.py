"""`dojo lora extract`: a LoRA merged into a model and taken out of it again."""

from __future__ import annotations

import pytest
import torch

from library.lora_files.file import read_lora
from tests.cli.lora_tools.conftest import dense

CONV = {"network_dim": 3, "network_alpha": 2, "network_args": {"conv_dim": 3}}


def tuned(of, dojo, folder, lora, layout="file"):
    path = folder / ("tuned.safetensors" if layout == "file" else "tuned")
    assert dojo("lora", "merge", lora, "--into", of.model(layout), "--out", path) == 0
    return path


@pytest.mark.parametrize(
    ("name", "layouts"),
    [("sd15", ("file", "folder")), ("sdxl", ("folder", "file")), ("sd2", ("file", "file"))],
    ids=str,
)
def test_a_difference_of_that_rank_comes_back_whole(kit, dojo, capsys, tmp_path, name, layouts):
    of, out = kit(name), tmp_path / "out.safetensors"
    lora = of.lora(5, **CONV)
    changed = tuned(of, dojo, tmp_path, lora, layouts[1])
    words = ["--base", of.model(layouts[0]), "--tuned", changed, "--out", out, "--rank", 3, "--conv_rank", 3]
    capsys.readouterr()
    assert dojo("lora", "extract", *words) == 0
    assert "left out" not in capsys.readouterr().out
    before, found = dense(lora), dense(out)
    assert found.keys() == before.keys()
    for key, change in found.items():
        assert (change - before[key]).norm() < 1e-4 * before[key].norm() + 1e-5
    torch.testing.assert_close(of.outputs(of.model(layouts[1]), (out, 1.0)), of.outputs(changed), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(of.outputs(of.model(layouts[1])), of.outputs(changed), rtol=1e-2, atol=1e-2)
    metadata = read_lora(out)[1]
    assert (
        metadata["ss_network_dim"] == "3"
        and metadata["ss_base_model_version"] == read_lora(lora)[1]["ss_base_model_version"]
    )


def test_a_lower_rank_is_the_nearest(kit, dojo, tmp_path):
    of, out = kit("sd15"), tmp_path / "out.safetensors"
    lora = of.lora(5, **CONV)
    changed = tuned(of, dojo, tmp_path, lora)
    assert dojo("lora", "extract", "--base", of.model("file"), "--tuned", changed, "--out", out, "--rank", 2) == 0
    before, found = dense(lora), dense(out)
    for key, change in found.items():
        lost = torch.linalg.svdvals(before[key])[2:].norm()
        assert float((change - before[key]).norm()) == pytest.approx(float(lost), rel=1e-2, abs=1e-5)
    assert {key for key in before if key not in found} == {
        key for key in before if "resnets" in key or "samplers" in key
    }


def test_says_what_is_left_out(kit, dojo, capsys, tmp_path):
    of, out = kit("sd15"), tmp_path / "out.safetensors"
    changed = tuned(of, dojo, tmp_path, of.lora(6, strength=0.02, **CONV))
    words = ["--base", of.model("file"), "--tuned", changed, "--out", out, "--rank", 3]
    assert dojo("lora", "extract", *words) == 0
    told = capsys.readouterr().out
    assert "te1 is left out" in told and "resnets and samplers differ too; --conv_rank takes them" in told
    assert not any(name.startswith("lora_te") for name in read_lora(out)[0])
    assert dojo("lora", "extract", *words, "--min_diff", 0, "--conv_rank", 3) == 0
    assert "left out" not in capsys.readouterr().out
    assert any(name.startswith("lora_te") for name in read_lora(out)[0])


def test_sd_scripts_words_and_its_clamping(kit, dojo, tmp_path):
    of, out = kit("sd15"), tmp_path / "out.safetensors"
    changed = tuned(of, dojo, tmp_path, of.lora(5, **CONV))
    words = ["--model_org", of.model("file"), "--model_tuned", changed, "--save_to", out, "--dim", 2, "--conv_dim", 1]
    assert dojo("lora", "extract", *words, "--clamp_quantile", 0.99, "--save_precision", "fp16") == 0
    tensors = read_lora(out)[0]
    key = "lora_unet_down_blocks_0_attentions_0_proj_in"
    up, down = tensors[f"{key}.lora_up.weight"], tensors[f"{key}.lora_down.weight"]
    assert up.dtype == torch.float16 and up.shape[1] == 2
    limit = torch.cat([up.flatten(), down.flatten()]).abs().max()
    assert (up.abs() == limit).sum() + (down.abs() == limit).sum() > 1


def test_mistakes_are_told(kit, dojo, capsys, tmp_path):
    of, out = kit("sd15"), tmp_path / "out.safetensors"
    file, other = of.model("file"), kit("sdxl").model("file")
    for base, new, target, told in [
        (file, of.model("folder"), out, "do not differ"),
        (file, other, out, "no LoRA leads from one to the other"),
        (file, of.lora(5, **CONV), out, "a LoRA or another adapter"),
        (file, file, file, "never written over"),
    ]:
        assert dojo("lora", "extract", "--base", base, "--tuned", new, "--out", target, "--rank", 2) == 2
        assert told in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
