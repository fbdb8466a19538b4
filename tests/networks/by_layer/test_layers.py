"""Ranks, alphas and learning rates of single layers by tables of network_layers."""

from __future__ import annotations

import json
import re

import pytest

from library.core.errors import UserError, UserErrors
from library.lora_files.file import save_lora
from networks.base import Rates
from networks.build import build_network, check_network
from tests.networks.built import RATES, build, config, named, rates, sizes


def matched(model, *texts):
    """Which layers texts mean, told by the rank that they get."""
    network = build(model, {"match": "*", "dim": 0}, {"match": list(texts), "dim": 3})
    assert set(sizes(network).values()) == {(3, 4.0)}
    return set(network.sites)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("attn2", "_attn2_"),
        ("to_out.0", "_to_out_0$"),
        ("to_*", "_to_"),
        ("ff", "_ff_net"),
        ("unet", "lora_unet_"),
        ("te1", "lora_te1?_"),
        ("te1 mlp", "lora_te1?_.*_mlp_"),
        ("te1.text_model.encoder.layers.1", "lora_te1?_.*_layers_1_"),
        ("layers.0 self_attn.q_proj", "_layers_0_self_attn_q_proj"),
        ("*.q_proj", "_q_proj"),
        ("lora_unet_*attn1_to_k", "lora_unet_.*_attn1_to_k"),
        ("unet.*.to_v", "_to_v$"),
        ("*", ""),
        ("M00", "_mid_block|_middle_block"),
        ("M00 attn1 to_q", "(_mid_block|_middle_block).*_attn1_to_q"),
    ],
)
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_what_words_mean(tiny, family, text, pattern):
    model = tiny(family)
    assert matched(model, text) == named(model, pattern) != set()


@pytest.mark.parametrize(
    ("family", "text", "pattern"),
    [
        ("sd1", "IN01", "_down_blocks_0_attentions_0_"),
        ("sd1", "OUT03", "_up_blocks_1_attentions_0_"),
        ("sd1", "OUT00-OUT11", "_up_blocks_"),
        ("sd1", "IN00-M00", "_down_blocks_|_mid_block_"),
        ("sd1", "up_blocks.1.attentions.1", "_up_blocks_1_attentions_1_"),
        ("sdxl", "IN04-IN05", "_input_blocks_[45]_"),
        ("sdxl", "IN08-OUT00 to_k", "_(input_blocks_8|middle_block_1|output_blocks_0)_.*to_k"),
        ("sdxl", "OUT04", "_output_blocks_4_"),
        ("sdxl", "unet.up_blocks.1.attentions.2", "_output_blocks_5_1_"),
        ("sdxl", "output_blocks.5", "_output_blocks_5_1_"),
        ("sdxl", "unet.input_blocks.7.1.proj_in", "_input_blocks_7_1_proj_in$"),
        ("sdxl", "te2 fc1", "lora_te2_.*_fc1"),
    ],
)
def test_blocks_and_names_of_a_family(tiny, family, text, pattern):
    model = tiny(family)
    assert matched(model, text) == named(model, pattern) != set()


def test_one_of_the_texts_is_enough(tiny):
    model = tiny()
    assert matched(model, "to_k", "te1 fc1") == named(model, "_to_k$|_fc1$")
    assert matched(model, "attn2 to_k", "attn2 to_k") == named(model, "_attn2_to_k$")


def test_later_tables_win_field_by_field(tiny):
    network = build(
        tiny(),
        {"match": "attn2", "dim": 32, "alpha": 16},
        {"match": ["M00"], "dim": 2},
        {"match": "to_k", "alpha": 0},
        {"match": "IN01 to_q", "dim": 0},
        network_args={"block_dims": [6] * 25},
    )
    for key in named(tiny(), ""):
        rank, alpha = (8, 4.0) if "lora_te" in key else (6, 4.0)
        rank, alpha = (32, 16.0) if "attn2" in key else (rank, alpha)
        rank = 2 if "mid_block" in key else rank
        alpha = rank if key.endswith("to_k") else alpha
        if key.endswith("to_q") and "down_blocks_0_attentions_0" in key:
            assert key not in network.sites
        else:
            assert sizes(network)[key] == (rank, alpha)
    assert network.metadata()["ss_network_dim"] == "8"
    assert json.loads(network.metadata()["ss_network_layers"])[1] == {"match": ["M00"], "dim": 2}


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("resnets", "_resnets_"),
        ("conv1", "_conv1$"),
        ("up_blocks.0", "_up_blocks_0_"),
        ("IN10-IN11", "^$"),
        ("*samplers*", "samplers"),
        ("OUT03 resnets", "_up_blocks_1_resnets_0"),
    ],
)
def test_a_text_for_convolutional_layers_alone_brings_them_in(tiny, text, pattern):
    model = tiny()  # whose up_blocks.0 holds no attention, and which has no IN10
    if text == "IN10-IN11":
        with pytest.raises(UserError, match="fits 'IN10-IN11'"):
            build(model, {"match": text, "dim": 2})
        return
    network = build(model, {"match": text, "dim": 2})
    meant = named(model, pattern, conv=True)
    assert set(network.sites) == named(model, "") | meant and meant
    for key in meant:
        assert sizes(network)[key] == (2, 1.0 if network.sites[key].kind == "conv3x3" else 4.0)


def test_a_text_that_fits_both_kinds_means_convolutional_layers_with_conv_dim_only(tiny):
    rule = {"match": "up_blocks.1", "dim": 3}
    assert set(build(tiny(), rule).sites) == named(tiny(), "")
    found = sizes(build(tiny(), rule, network_args={"conv_dim": 2, "conv_alpha": 7}))
    assert found["lora_unet_up_blocks_1_resnets_0_conv1"] == (3, 7.0)
    assert found["lora_unet_up_blocks_0_resnets_0_conv1"] == (2, 7.0)
    assert found["lora_unet_up_blocks_1_resnets_0_time_emb_proj"] == (3, 4.0)


def test_alpha_of_convolutions_that_a_table_brings_in(tiny, caplog):
    found = sizes(build(tiny(), {"match": "conv1", "dim": 6}, network_args={"conv_alpha": 0}))
    assert found["lora_unet_mid_block_resnets_0_conv1"] == (6, 6)
    assert not caplog.records
    build(tiny(), network_args={"conv_alpha": 2})
    assert "alpha for convolutions has no effect" in caplog.text


def test_learning_rates(tiny):
    network = build(
        tiny("sdxl"),
        {"match": "attn2", "lr": 5e-4},
        {"match": ["OUT00", "OUT01 ff"], "lr_scale": 0.5},
        {"match": "te2", "lr_scale": 2},
        {"match": "attn2 to_q", "dim": 4},
    )
    assert rates(network) == pytest.approx(
        {
            "unet": 1e-3,
            "unet attn2": 5e-4,
            "unet OUT00, OUT01 ff": 0.5e-3,
            "textencoder1": 1e-4,
            "textencoder2 te2": 2e-5,
        }
    )
    by_parameter = {id(p): group.lr for group in network.parameter_groups(RATES) for p in group.parameters}
    for key, adapter in network.adapters.items():
        expected = {"lora_u": 1e-3, "lora_te1": 1e-4, "lora_te2": 2e-5}[re.match("lora_(u|te.)", key)[0]]
        expected = 5e-4 if "attn2" in key else expected
        expected = 0.5e-3 if re.search("output_blocks_0_|output_blocks_1_.*ff", key) else expected
        assert {by_parameter[id(parameter)] for parameter in adapter.parameters()} == {expected}
    assert sum(len(group.parameters) for group in network.parameter_groups(RATES)) == len(list(network.parameters()))


def test_block_weights_and_lora_plus_multiply_the_rate_of_a_table(tiny):
    network = build(
        tiny(),
        {"match": "attn2", "lr": 2e-4},
        network_args={"mid_lr_weight": [0.5], "loraplus_unet_lr_ratio": 16},
    )
    found = rates(network)
    assert found["unet_block12 attn2"] == pytest.approx(1e-4)
    assert found["unet_block12 attn2 plus"] == pytest.approx(16e-4)
    assert found["unet_block12"] == pytest.approx(5e-4)
    assert found["unet_block1 attn2"] == pytest.approx(2e-4)
    assert found["textencoder"] == pytest.approx(1e-4)


@pytest.mark.parametrize("field", ["lr", "lr_scale"])
def test_a_rate_of_zero_leaves_layers_out(tiny, field):
    network = build(tiny(), {"match": "attn1", "dim": 16, field: 0}, {"match": "attn1 to_v", "lr": 1e-5})
    assert set(network.sites) == named(tiny(), "") - named(tiny(), "_attn1_to_([qk]|out_0)$")
    assert rates(network)["unet attn1 to_v"] == pytest.approx(1e-5)


def test_a_host_without_a_rate_stays_frozen(tiny):
    network = build(tiny(), {"match": "te1", "lr": 1e-5})
    assert set(rates(network, Rates({"unet": 1e-3}))) == {"unet"}


def test_mistakes_are_told_together_with_near_names(tiny):
    rules = (
        {"match": ["attn2", "atn1"], "dim": 2},
        {"match": "OUT03 te1", "dim": 2},
        {"match": "up_block.1", "dim": 2},
    )
    with pytest.raises(UserErrors) as caught:
        build(tiny(), *rules)
    first, second, third = caught.value.messages
    assert (
        "network_layers[0]: no layer of the parts that are trained (unet, te1) fits 'atn1'. Did you mean 'attn1'?"
        in first
    )
    assert "network_layers[1]: no layer of the parts that are trained (unet, te1) fits all of 'OUT03 te1'" in second
    assert '["OUT03", "te1"]' in second
    assert "Did you mean 'up_blocks.1'?" in third
    with pytest.raises(UserError, match=r"\(unet\) fits 'te1'"):
        build(tiny(), {"match": "te1", "dim": 2}, network_train_unet_only=True)
    with pytest.raises(UserError, match=r"fits 'OUT12'.*Did you mean 'OUT"):
        build(tiny(), {"match": "OUT12", "dim": 2})
    with pytest.raises(
        UserError, match=r"network_layers\[0\]: the network does not act.*resnets.*dim, or set conv_dim"
    ):
        build(tiny(), {"match": "resnets", "lr": 1e-4})
    with pytest.raises(UserError, match="leave out every one"):
        build(tiny(), {"match": "*", "dim": 0})


def test_ranks_from_a_file_hold_and_rates_of_tables_too(tiny, tmp_path):
    first = build(tiny(), {"match": "attn2", "dim": 2}, {"match": "conv1", "dim": 3})
    save_lora(tmp_path / "a.safetensors", first.state_dict_to_save(), {})
    from_file = {"network_weights": str(tmp_path / "a.safetensors"), "dim_from_weights": True}
    second = build(
        tiny(), {"match": "attn2", "dim": 32, "lr": 1e-5}, {"match": "resnets", "lr_scale": 0.5}, **from_file
    )
    assert sizes(second) == sizes(first)
    assert rates(second) == pytest.approx({"unet": 1e-3, "unet attn2": 1e-5, "unet resnets": 5e-4, "textencoder": 1e-4})


def test_networks_of_other_protocols_refuse_them():
    foreign = config({"match": "attn2", "dim": 2}, network_module="lycoris.kohya")
    with pytest.raises(UserError, match=r"network_layers.*lycoris\.kohya.*preset"):
        check_network(foreign)
    with pytest.raises(UserError, match="preset"):
        build_network(foreign, {}, "sd1", seed=0)
