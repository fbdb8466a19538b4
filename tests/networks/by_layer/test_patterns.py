"""sd-scripts' regular expressions in network_args."""

from __future__ import annotations

import logging
import re

import pytest

from library.core.errors import UserError
from library.lora_files.names.keys import sites
from networks.build import check_network
from tests.networks.built import build, config, named, rates, sizes


def test_patterns_of_sd_scripts(tiny):
    network = build(
        tiny("sdxl"),
        network_args={
            "network_reg_dims": r"input_blocks\.4\..*attn2.*=3,.*attn2.*=5,text_model\..*mlp\.fc1=0",
            "network_reg_lrs": {r".*to_(k|v)": 1e-5, "middle_block.*": 0.0},
            "exclude_patterns": "['.*attn1.*', '.*proj_in']",
            "include_patterns": [r".*attn1\.to_q"],
            "conv_dim": 2,
        },
    )
    for site in sites(tiny("sdxl").hosts, "sdxl", conv=True):
        key = site.key
        left_out = re.search("_attn1_to_([kv]|out_0)$|_proj_in$|_mlp_fc1$", key)
        left_out = left_out or (key.startswith("lora_unet_middle_block") and not re.search("_to_[kv]$", key))
        assert (key in network.sites) == (not left_out), key
        if not left_out:
            expected = (2, 1.0) if site.kind == "conv3x3" else (8, 4.0)
            expected = (5, 4.0) if "attn2" in key else expected
            expected = (3, 4.0) if "input_blocks_4_1" in key and "attn2" in key else expected
            assert sizes(network)[key] == expected, key
    assert rates(network)["unet reg_lr_0"] == pytest.approx(1e-5)
    assert "textencoder1 reg_lr_0" not in rates(network)  # theirs are k_proj and v_proj


def test_tables_win_over_patterns(tiny):
    network = build(
        tiny(),
        {"match": "attn2 to_k", "dim": 7},
        network_args={"network_reg_dims": {".*attn2.*": 3}, "exclude_patterns": [".*attn2.to_v"]},
    )
    found = sizes(network)
    assert {found[key] for key in named(tiny(), "_attn2_to_k$")} == {(7, 4.0)}
    assert {found[key] for key in named(tiny(), "_attn2_to_q$")} == {(3, 4.0)}
    assert not named(tiny(), "_attn2_to_v$") & found.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network_reg_dims": "(=3"}, r"regular expressions, but '\(' is none"),
        ({"network_reg_dims": "a{1,2}=3"}, "stands in a table"),
        ({"network_reg_dims": "a=-3"}, "at least 0"),
        ({"network_reg_dims": "a=x"}, "number"),
        ({"exclude_patterns": ["*"]}, r"'\*' is none"),
        ({"include_patterns": [3]}, "in quotes"),
    ],
)
def test_patterns_that_are_wrong(arguments, message):
    with pytest.raises(UserError, match=message):
        check_network(config(network_args=arguments))


def test_patterns_without_effect_are_told(tiny, caplog):
    build(tiny(), network_args={"network_reg_dims": "attn2=3", "include_patterns": ".*to_k"})
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "'attn2' fits no layer" in caplog.text and "include_patterns has no effect" in caplog.text
