"""`dojo lora resize`: what it keeps against dense singular values."""

from __future__ import annotations

import pytest
import torch

from library.lora_files.file import read_lora, save_lora
from tests.cli.lora_tools.conftest import dense

CONV = {"network_dim": 6, "network_alpha": 3, "network_args": {"conv_dim": 4, "conv_alpha": 1}}


def ranks(path):
    return {name.partition(".")[0]: len(tensor) for name, tensor in read_lora(path)[0].items() if "lora_down" in name}


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_rank_keeps_the_largest_singular_values(kit, dojo, capsys, tmp_path, name):
    lora, out = kit(name).lora(4, **CONV), tmp_path / "out.safetensors"
    assert dojo("lora", "resize", lora, out, "--rank", 3, "--conv_rank", 2) == 0
    before, found = dense(lora), ranks(out)
    for key, change in dense(out).items():
        values = torch.linalg.svdvals(before[key])
        assert float((change - before[key]).norm()) == pytest.approx(
            float(values[found[key] :].norm()), rel=1e-3, abs=1e-5
        )
    assert set(found.values()) == {2, 3}
    metadata = read_lora(out)[1]
    assert metadata["ss_network_dim"] == "3" and metadata["ss_training_comment"].startswith(
        "dimension is resized to 3 from 6"
    )
    assert "rank 6 -> 3" in capsys.readouterr().out.replace("4-6", "6").replace("2-3", "3")


def test_the_same_rank_changes_nothing(kit, dojo, tmp_path):
    lora, out = kit("sd15").lora(4, **CONV), tmp_path / "out.safetensors"
    assert dojo("lora", "resize", lora, out, "--rank", 99) == 0
    before = dense(lora)
    for key, change in dense(out).items():
        torch.testing.assert_close(change, before[key], rtol=1e-4, atol=1e-5)
    assert read_lora(out)[1]["ss_network_dim"] == "6"


def smallest(values, share):
    """By trying one rank after the other."""
    return next(rank for rank in range(1, len(values) + 1) if share(values[:rank], values))


RULES = {
    "sv_fro": ("--frobenius", 0.8, lambda kept, values: kept.norm() >= 0.8 * values.norm()),
    "sv_cumulative": ("--cumulative", 0.7, lambda kept, values: kept.sum() >= 0.7 * values.sum()),
    "sv_ratio": ("--ratio", 2.0, lambda kept, values: len(kept) == max(1, int((values > values[0] / 2).sum()))),
    None: ("--energy", 0.7, lambda kept, values: kept.square().sum() >= 0.7 * values.square().sum()),
}


@pytest.mark.parametrize("method", RULES)
def test_rules_give_each_layer_the_rank_that_it_needs(kit, dojo, tmp_path, method):
    lora, out = kit("sd15").lora(4, **CONV), tmp_path / "out.safetensors"
    option, number, share = RULES[method]
    assert dojo("lora", "resize", lora, out, option, number) == 0
    found = ranks(out)
    for key, change in dense(lora).items():
        values = torch.linalg.svdvals(change)[: ranks(lora)[key]]
        assert found[key] == smallest(values, share)
    assert len(set(found.values())) > 1 and read_lora(out)[1]["ss_network_dim"] == "Dynamic"
    if method is not None:
        theirs = tmp_path / "theirs.safetensors"
        words = [
            "--model",
            lora,
            "--save_to",
            theirs,
            "--new_rank",
            6,
            "--dynamic_method",
            method,
            "--dynamic_param",
            number,
        ]
        assert dojo("lora", "resize", *words) == 0
        one, other = read_lora(out)[0], read_lora(theirs)[0]
        assert one.keys() == other.keys() and all(torch.equal(one[each], other[each]) for each in one)


def test_every_linear_has_one_alpha(kit, dojo, tmp_path):
    """diffusers reads alphas that differ wrongly."""
    out = tmp_path / "out.safetensors"
    assert dojo("lora", "resize", kit("sd15").lora(4, **CONV), out, "--energy", 0.7) == 0
    assert len({float(tensor) for name, tensor in read_lora(out)[0].items() if name.endswith("alpha")}) == 1


def test_a_file_without_metadata_gets_what_readers_need(kit, dojo, tmp_path):
    bare, out = tmp_path / "bare.safetensors", tmp_path / "out.safetensors"
    save_lora(bare, read_lora(kit("sdxl").lora(4, **CONV))[0], {})
    assert dojo("lora", "resize", bare, out, "--rank", 2) == 0
    metadata = read_lora(out)[1]
    assert metadata["ss_base_model_version"] == "sdxl_base_v1-0" and metadata["ss_network_module"] == "networks.lora"
    assert (
        metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora" and metadata["ss_network_dim"] == "2"
    )


def test_what_it_says_of_its_network_is_of_the_new_file_alone(kit, dojo, tmp_path):
    args = {"conv_dim": 4, "conv_alpha": 2, "rank_dropout": 0.1, "use_rslora": True}
    trained, out = kit("sd15").lora(4, network_dim=6, network_args=args), tmp_path / "out.safetensors"
    tensors, metadata = read_lora(trained)
    lora, before = tmp_path / "lora.safetensors", dense(trained)
    save_lora(lora, tensors, {**metadata, "ss_network_layers": "[]", "ss_training_comment": "None", "ss_steps": "7"})
    assert dojo("lora", "resize", lora, out, "--rank", 6, "--dtype", "fp32") == 0
    metadata = read_lora(out)[1]
    assert {name: value for name, value in metadata.items() if name.startswith("ss_network_")} == {
        "ss_network_module": "networks.lora", "ss_network_dim": "6", "ss_network_alpha": "6.0",
        "ss_network_args": '{"conv_dim": "6", "conv_alpha": "6.0"}',
    }  # fmt: skip
    assert metadata["ss_training_comment"] == "dimension is resized to 6 from 6" and metadata["ss_steps"] == "7"
    for key, change in dense(out).items():
        torch.testing.assert_close(change, before[key], rtol=1e-4, atol=1e-5)


def test_mistakes_are_told(kit, dojo, capsys, tmp_path):
    of, out = kit("sd15"), tmp_path / "out.safetensors"
    lora, loha = of.lora(4, **CONV), of.lora(2, network_module="networks.loha", network_dim=2)
    for words, told in [
        ([lora, out], "say how small"),
        ([lora, lora, "--rank", 2], "never written over"),
        ([lora, out, "--dynamic_method", "sv_fro"], "belong together"),
        ([lora, out, "--dynamic_method", "sv_ratio", "--dynamic_param", 0.5], "above 1"),
        ([loha, out, "--rank", 2], "no LoRA of two factors"),
        ([lora], "name the LoRA and the new file"),
    ]:
        assert dojo("lora", "resize", *words) == 2
        assert told in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
