from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from library.lora_files.names.unet_names import SD, SDXL, diffusers_unet_module, layout_of, original_unet_module

SD_SHAPE = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (32, 32, 32, 32),
    "attention_head_dim": 4,
    "norm_num_groups": 8,
    "cross_attention_dim": 16,
}
SDXL_SHAPE = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (32, 64, 64),
    "transformer_layers_per_block": (1, 2, 3),
    "attention_head_dim": (4, 8, 8),
    "norm_num_groups": 8,
    "cross_attention_dim": 16,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 64,
}


def unet(shape: dict) -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(**shape)


@pytest.mark.parametrize(("shape", "layout"), [(SD_SHAPE, SD), (SDXL_SHAPE, SDXL)], ids=["sd", "sdxl"])
def test_layout_is_read_from_the_names(shape, layout):
    assert layout_of(unet(shape).state_dict()) == layout


@pytest.mark.parametrize(("shape", "layout"), [(SD_SHAPE, SD), (SDXL_SHAPE, SDXL)], ids=["sd", "sdxl"])
def test_agrees_with_the_conversion_of_diffusers(shape, layout):
    model = unet(shape)
    names = list(model.state_dict())
    original = {original_unet_module(name, layout): torch.tensor(float(i)) for i, name in enumerate(names)}
    assert len(original) == len(names)
    prefixed = {f"model.diffusion_model.{name}": value for name, value in original.items()}
    config = {**model.config, "class_embed_type": None}
    converted = convert_ldm_unet_checkpoint(prefixed, config)
    assert {name: int(value) for name, value in converted.items()} == {name: i for i, name in enumerate(names)}


@pytest.mark.parametrize(("shape", "layout"), [(SD_SHAPE, SD), (SDXL_SHAPE, SDXL)], ids=["sd", "sdxl"])
def test_every_name_of_modules_and_parameters_comes_back(shape, layout):
    model = unet(shape)
    leaves = [name for name, module in model.named_modules() if not list(module.children()) and "." in name]
    known = [
        name for name in leaves if "nonlinearity" not in name and ".dropout" not in name and not name.endswith(".act")
    ]
    assert len(known) > 100
    for name in [*known, *model.state_dict()]:
        assert diffusers_unet_module(original_unet_module(name, layout)) == name


def test_names_that_sdxl_lora_files_use():
    pairs = {
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": "input_blocks.4.1.transformer_blocks.0.attn1.to_q",
        "mid_block.attentions.0.proj_in": "middle_block.1.proj_in",
        "up_blocks.0.attentions.0.proj_out": "output_blocks.0.1.proj_out",
        "down_blocks.1.resnets.0.conv1": "input_blocks.4.0.in_layers.2",
        "down_blocks.1.resnets.0.time_emb_proj": "input_blocks.4.0.emb_layers.1",
        "mid_block.resnets.1.conv2": "middle_block.2.out_layers.3",
        "up_blocks.2.resnets.2.conv_shortcut": "output_blocks.8.0.skip_connection",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.2.2.conv",
    }
    assert {name: original_unet_module(name, SDXL) for name in pairs} == pairs
    assert original_unet_module("up_blocks.0.upsamplers.0.conv", SD) == "output_blocks.2.1.conv"


@pytest.mark.parametrize("name", ["text_model.encoder", "down_blocks.0.motion_modules.0", "mid_block.resnets.7"])
def test_foreign_names_are_refused(name):
    with pytest.raises(KeyError):
        original_unet_module(name, SD)
