"""The names in LoRA files, against lists written out from sd-scripts' naming rules for the full-size models."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from library.core.errors import UserError
from library.lora_files.names.keys import dotted_names, sites
from library.lora_files.names.layouts import KEY_LAYOUTS, SD_KEYS, BlockCounts, KeyLayout

ATTENTION = [f"attn{number}_to_{part}" for number in (1, 2) for part in ("q", "k", "v", "out_0")]
FEED_FORWARD = ["ff_net_0_proj", "ff_net_2"]


def transformer(prefix, depth):
    blocks = [f"transformer_blocks_{block}_{part}" for block in range(depth) for part in ATTENTION + FEED_FORWARD]
    return [f"{prefix}_{name}" for name in ["proj_in", *blocks, "proj_out"]]


def sd_linear():
    places = [f"down_blocks_{level}_attentions_{index}" for level in (0, 1, 2) for index in (0, 1)]
    places += ["mid_block_attentions_0"]
    places += [f"up_blocks_{level}_attentions_{index}" for level in (1, 2, 3) for index in (0, 1, 2)]
    return [f"lora_unet_{name}" for place in places for name in transformer(place, 1)]


def sd_convolutional():
    places = [f"down_blocks_{level}_resnets_{index}" for level in range(4) for index in range(2)]
    places += ["mid_block_resnets_0", "mid_block_resnets_1"]
    ups = [f"up_blocks_{level}_resnets_{index}" for level in range(4) for index in range(3)]
    names = [f"{place}_{part}" for place in places + ups for part in ("conv1", "time_emb_proj", "conv2")]
    names += [f"{place}_conv_shortcut" for place in ["down_blocks_1_resnets_0", "down_blocks_2_resnets_0", *ups]]
    names += [f"down_blocks_{level}_downsamplers_0_conv" for level in (0, 1, 2)]
    names += [f"up_blocks_{level}_upsamplers_0_conv" for level in (0, 1, 2)]
    return [f"lora_unet_{name}" for name in names]


def sdxl_linear():
    depths = {"input_blocks_4_1": 2, "input_blocks_5_1": 2, "input_blocks_7_1": 10, "input_blocks_8_1": 10}
    depths |= {"middle_block_1": 10}
    depths |= {f"output_blocks_{block}_1": 10 if block < 3 else 2 for block in range(6)}
    return [f"lora_unet_{name}" for place, depth in depths.items() for name in transformer(place, depth)]


def sdxl_convolutional():
    outputs = [f"output_blocks_{block}_0" for block in range(9)]
    places = [f"input_blocks_{block}_0" for block in (1, 2, 4, 5, 7, 8)] + [
        "middle_block_0",
        "middle_block_2",
        *outputs,
    ]
    names = [f"{place}_{part}" for place in places for part in ("in_layers_2", "emb_layers_1", "out_layers_3")]
    names += [f"{place}_skip_connection" for place in ["input_blocks_4_0", "input_blocks_7_0", *outputs]]
    names += ["input_blocks_3_0_op", "input_blocks_6_0_op", "output_blocks_2_2_conv", "output_blocks_5_2_conv"]
    return [f"lora_unet_{name}" for name in names]


def text_encoder(prefix, layers):
    parts = [f"self_attn_{part}_proj" for part in ("q", "k", "v", "out")] + ["mlp_fc1", "mlp_fc2"]
    return [f"{prefix}_text_model_encoder_layers_{layer}_{part}" for layer in range(layers) for part in parts]


@pytest.fixture(scope="module")
def full_size():
    """Full-size SD1.5 and SDXL without their weights."""
    with torch.device("meta"):
        small, large = (
            {"vocab_size": 100, "num_hidden_layers": layers, "bos_token_id": 0, "eos_token_id": 1}
            for layers in (12, 32)
        )
        return {
            "sd1": {
                "unet": UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8),
                "te1": CLIPTextModel(CLIPTextConfig(**small)),
            },
            "sdxl": {
                "unet": UNet2DConditionModel(
                    block_out_channels=(320, 640, 1280),
                    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                    transformer_layers_per_block=(1, 2, 10),
                    attention_head_dim=(5, 10, 20),
                    cross_attention_dim=2048,
                    use_linear_projection=True,
                    addition_embed_type="text_time",
                    addition_time_embed_dim=256,
                    projection_class_embeddings_input_dim=2816,
                ),
                "te1": CLIPTextModel(CLIPTextConfig(**small)),
                "te2": CLIPTextModelWithProjection(CLIPTextConfig(**large)),
            },
        }


def keys(hosts, family, conv):
    return [site.key for site in sites(hosts, family, conv)]


def test_counts_of_the_lists_themselves():
    assert [len(sd_linear()), len(sd_linear() + sd_convolutional())] == [192, 278]
    assert [len(sdxl_linear()), len(sdxl_linear() + sdxl_convolutional())] == [722, 788]
    assert [len(text_encoder("", 12)), len(text_encoder("", 32))] == [72, 192]


def test_sd(full_size):
    hosts = full_size["sd1"]
    encoder = text_encoder("lora_te", 12)
    for family in ("sd1", "sd2"):
        assert sorted(keys(hosts, family, conv=False)) == sorted(sd_linear() + encoder)
        assert sorted(keys(hosts, family, conv=True)) == sorted(sd_linear() + sd_convolutional() + encoder)


def test_sdxl(full_size):
    hosts = full_size["sdxl"]
    encoders = text_encoder("lora_te1", 12) + text_encoder("lora_te2", 32)
    assert sorted(keys(hosts, "sdxl", conv=False)) == sorted(sdxl_linear() + encoders)
    assert sorted(keys(hosts, "sdxl", conv=True)) == sorted(sdxl_linear() + sdxl_convolutional() + encoders)


def test_encoder_keys_do_not_depend_on_how_the_library_nests_modules():
    encoder = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=8,
            intermediate_size=8,
            num_attention_heads=2,
            num_hidden_layers=2,
            vocab_size=9,
            bos_token_id=0,
            eos_token_id=1,
        )
    )
    flat = encoder if not hasattr(encoder, "text_model") else encoder.text_model
    nested = nn.Module()
    nested.text_model = flat
    assert keys({"te1": flat}, "sd1", False) == keys({"te1": nested}, "sd1", False)
    assert set(keys({"te1": flat}, "sd1", False)) == set(text_encoder("lora_te", 2))


@pytest.mark.parametrize(
    ("family", "name", "block"),
    [
        ("sd1", "lora_unet_down_blocks_0_attentions_0_proj_in", 1),
        ("sd1", "lora_unet_down_blocks_0_downsamplers_0_conv", 3),
        ("sd1", "lora_unet_down_blocks_1_attentions_1_proj_in", 5),
        ("sd1", "lora_unet_down_blocks_3_resnets_1_conv1", 11),
        ("sd1", "lora_unet_mid_block_attentions_0_proj_in", 12),
        ("sd1", "lora_unet_up_blocks_0_upsamplers_0_conv", 15),
        ("sd1", "lora_unet_up_blocks_1_attentions_0_proj_in", 16),
        ("sd1", "lora_unet_up_blocks_3_attentions_2_proj_out", 24),
        ("sdxl", "lora_unet_input_blocks_1_0_in_layers_2", 2),
        ("sdxl", "lora_unet_input_blocks_8_1_proj_in", 9),
        ("sdxl", "lora_unet_middle_block_0_in_layers_2", 10),
        ("sdxl", "lora_unet_middle_block_1_proj_in", 11),
        ("sdxl", "lora_unet_output_blocks_0_1_proj_in", 13),
        ("sdxl", "lora_unet_output_blocks_8_0_out_layers_3", 21),
    ],
)
def test_blocks_are_counted_as_in_sd_scripts(full_size, family, name, block):
    [site] = [site for site in sites(full_size[family], family, conv=True) if site.key == name]
    assert site.block == block
    assert KEY_LAYOUTS.get(family).blocks.total == {"sd1": 25, "sdxl": 23}[family]


def test_sites_tell_what_they_are(full_size):
    found = {site.key: site for site in sites(full_size["sd1"], "sd1", conv=True)}
    assert found["lora_unet_mid_block_attentions_0_proj_in"].kind == "conv1x1"
    assert found["lora_unet_mid_block_resnets_0_conv1"].kind == "conv3x3"
    assert found["lora_unet_mid_block_resnets_0_time_emb_proj"].kind == "linear"
    encoder = found["lora_te_text_model_encoder_layers_3_mlp_fc1"]
    assert (encoder.host, encoder.kind, encoder.block) == ("te1", "linear", None)
    for site in found.values():
        assert full_size["sd1"][site.host].get_submodule(site.path) is site.module


def test_names_of_modules_outside_the_scope(full_size):
    name_of = dotted_names("unet", full_size["sdxl"]["unet"], "sdxl")
    assert name_of("time_embedding.linear_1") == "time_embed.0"
    assert name_of("conv_in") == "input_blocks.0.0"
    assert dotted_names("te2", full_size["sdxl"]["te2"], "sdxl")("text_projection") == "text_projection"


def test_hosts_and_families_that_do_not_exist(full_size):
    with pytest.raises(UserError, match="'sd1' has no 'te2'"):
        sites({"te2": full_size["sdxl"]["te2"]}, "sd1", conv=False)
    with pytest.raises(UserError, match="Did you mean 'sdxl'"):
        sites(full_size["sdxl"], "sdxk", conv=False)


def test_a_family_of_ones_own(full_size):
    layout = KeyLayout({"unet": "mine"}, SD_KEYS.name_unet, lambda name: 0, BlockCounts(1, 1, 1, 0))
    KEY_LAYOUTS.register("test family")(layout)
    found = sites({"unet": full_size["sd1"]["unet"]}, "test family", conv=False)
    assert [site.key for site in found] == [
        f"mine{key.removeprefix('lora_unet')}" for key in keys({"unet": full_size["sd1"]["unet"]}, "sd1", False)
    ]
    assert {site.block for site in found} == {0}
