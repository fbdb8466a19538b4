"""LoRA files in the styles of other programs: recognised, and converted there and back."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from library.core.errors import UserError
from library.lora_files.convert import converted, exact_product
from library.lora_files.file import save_lora
from library.lora_files.names.family import recognise_family
from library.lora_files.names.keys import sites
from library.lora_files.names.module_names import dotted
from library.lora_files.names.peft_alphas import PeftScales
from library.lora_files.names.styles import parse, to_kohya
from library.lora_files.reading import check_whole, read_any_style
from tests.lora_files.names.test_keys import (
    full_size,
    sd_convolutional,
    sd_linear,
    sdxl_convolutional,
    sdxl_linear,
    text_encoder,
)

__all__ = ["full_size"]

NO_PEFT = PeftScales({})
HOSTS = {"unet": "unet", "te1": "text_encoder", "te2": "text_encoder_2"}


def golden(family):
    if family == "sdxl":
        return [*sdxl_linear(), *sdxl_convolutional(), *text_encoder("lora_te1", 12), *text_encoder("lora_te2", 32)]
    return [*sd_linear(), *sd_convolutional(), *text_encoder("lora_te", 12)]


def written_paths(hosts, family):
    """Key of sd-scripts -> diffusers' name, from the modules of the full-size model."""
    nested = {"te1": "text_model.", "te2": ""}
    return {
        site.key: f"{HOSTS[site.host]}.{'' if site.path.startswith('text_model.') else nested.get(site.host, '')}{site.path}"
        for site in sites(hosts, family, conv=True)
    }


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_every_site_of_the_full_models_in_every_style(full_size, family):
    paths = written_paths(full_size[family], family)
    assert sorted(paths) == sorted(golden(family))
    ours = {f"{key}.{part}.weight": torch.zeros(2, 2) for key in paths for part in ("lora_down", "lora_up")}
    theirs = {f"{path}.{part}.weight" for path in paths.values() for part in ("lora_A", "lora_B")}
    in_diffusers = converted(ours, family, "diffusers")
    assert set(in_diffusers) == theirs
    spellings = {
        "peft": lambda path, up: f"{path}.lora_{'B' if up else 'A'}.weight",
        "diffusers": lambda path, up: f"{path}.lora.{'up' if up else 'down'}.weight",
        "onetrainer": lambda path, up: f"{path.replace('text_encoder_2', 'clip_g').replace('text_encoder', 'clip_l')}.lora_{'up' if up else 'down'}.weight",
        "kohya-diffusers": lambda path, up: under_one_key(path, family) + f".lora_{'up' if up else 'down'}.weight",
    }  # fmt: skip
    for style, spelled in spellings.items():
        file = {spelled(path, up): torch.zeros(2, 2) for path in paths.values() for up in (False, True)}
        back, found = to_kohya(file, family, NO_PEFT)
        assert set(back) - {f"{key}.alpha" for key in paths} == set(ours), style
        assert found == ("kohya" if family == "sd1" and style == "kohya-diffusers" else style)
    assert set(converted(ours, family, "kohya-diffusers")) == {
        f"{under_one_key(path, family)}.{part}.weight" for path in paths.values() for part in ("lora_down", "lora_up")
    }


def under_one_key(path, family):
    host, _, rest = path.partition(".")
    prefix = {
        "unet": "lora_unet",
        "text_encoder": "lora_te1" if family == "sdxl" else "lora_te",
        "text_encoder_2": "lora_te2",
    }
    return f"{prefix[host]}_{rest.replace('.', '_')}"


def test_dots_come_back_into_every_name_of_a_full_unet(full_size):
    for family in ("sd1", "sdxl"):
        names = [
            name for name, module in full_size[family]["unet"].named_modules() if list(module.parameters(recurse=False))
        ]
        assert len(names) > 300
        assert [dotted(name.replace(".", "_")) for name in names] == names


@pytest.mark.parametrize(
    ("name", "kohya", "style"),
    [
        ("unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.down.weight",
         "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_down.weight", "attention-processors"),
        ("mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.up.weight",
         "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight", "attention-processors"),
        ("text_encoder.text_model.encoder.layers.3.self_attn.to_out_lora.up.weight",
         "lora_te_text_model_encoder_layers_3_self_attn_out_proj.lora_up.weight", "attention-processors"),
        ("text_encoder.encoder.layers.3.mlp.fc1.lora_linear_layer.down.weight",
         "lora_te_text_model_encoder_layers_3_mlp_fc1.lora_down.weight", "diffusers"),
        ("base_model.model.down_blocks.0.attentions.1.proj_in.lora_A.default.weight",
         "lora_unet_down_blocks_0_attentions_1_proj_in.lora_down.weight", "peft"),
        ("unet.base_model.model.down_blocks.0.attentions.1.proj_in.lora_magnitude_vector.default.weight",
         "lora_unet_down_blocks_0_attentions_1_proj_in.dora_scale", "peft"),
        ("lora_unet_input_blocks_1_1_proj_in.lora_down.weight",
         "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "kohya-original"),
        ("lycoris_mid_block_attentions_0_proj_in.lokr_w1",
         "lora_unet_mid_block_attentions_0_proj_in.lokr_w1", "simpletuner"),
        ("oft_unet_mid_block_attentions_0_proj_in.oft_blocks",
         "lora_unet_mid_block_attentions_0_proj_in.oft_blocks", "sd-scripts-oft"),
        ("unet.middle_block.1.proj_in.dora_scale", "lora_unet_mid_block_attentions_0_proj_in.dora_scale", "onetrainer"),
    ],
)  # fmt: skip
def test_single_names(name, kohya, style):
    found, told = to_kohya({name: torch.ones(3, 1)}, "sd1", NO_PEFT)
    assert kohya in found
    assert told == style


def tensors_of(*shapes):
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draw) for shape in shapes]


def test_alphas_of_peft_come_from_where_it_keeps_them(tmp_path, caplog):
    down, up = tensors_of((4, 8), (6, 4))
    site = "unet.down_blocks.1.attentions.0.proj_in"
    other = "unet.mid_block.attentions.0.proj_in"
    encoder = "text_encoder.encoder.layers.0.mlp.fc1"
    file = {
        f"{key}.lora_{half}.weight": value
        for key in (site, other, encoder)
        for half, value in (("A", down.clone()), ("B", up.clone()))
    }
    header = {"unet.lora_alpha": 2, "unet.r": 4, "unet.alpha_pattern": {"mid_block.attentions.0.proj_in": 3},
              "text_encoder.lora_alpha": 8, "text_encoder.use_rslora": True}  # fmt: skip
    found, _ = to_kohya(file, "sd1", PeftScales.of_metadata({"lora_adapter_metadata": json.dumps(header)}))
    assert [
        float(found[f"lora_unet_{name}_attentions_0_proj_in.alpha"]) for name in ("down_blocks_1", "mid_block")
    ] == [2, 3]
    assert (
        float(found["lora_te_text_model_encoder_layers_0_mlp_fc1.alpha"]) == 8 * 4**0.5
    )  # alpha / sqrt(rank) = 16 / rank
    assert float(to_kohya(file, "sd1", NO_PEFT)[0]["lora_unet_mid_block_attentions_0_proj_in.alpha"]) == 4
    save_lora(tmp_path / "adapter_model.safetensors", {name.replace("unet.", "base_model.model."): value for name, value in file.items() if "unet" in name}, {})  # fmt: skip
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 1}))
    read = read_any_style(tmp_path / "adapter_model.safetensors", "sd1")
    assert float(read.tensors["lora_unet_mid_block_attentions_0_proj_in.alpha"]) == 1
    (tmp_path / "adapter_config.json").unlink()
    with caplog.at_level(logging.WARNING, "dojo"):
        bare = read_any_style(tmp_path / "adapter_model.safetensors", "sd1")
    assert "adapter_config.json is not beside it: alpha is taken to be the rank" in caplog.text
    assert float(bare.tensors["lora_unet_mid_block_attentions_0_proj_in.alpha"]) == 4
    (tmp_path / "adapter_config.json").write_text("[1]")
    with pytest.raises(UserError, match=r"adapter_config\.json is not a table"):
        read_any_style(tmp_path / "adapter_model.safetensors", "sd1")
    with pytest.raises(UserError, match="'much', which is not a number"):
        to_kohya(file, "sd1", PeftScales({"unet": {"lora_alpha": "much"}}))


def test_alpha_goes_into_the_weights_without_loss():
    [up] = tensors_of((64, 8))
    half = up.half()
    assert exact_product(half, 0.25).dtype == torch.float16
    assert torch.equal(exact_product(half, 0.25).double(), half.double() * 0.25)
    third = exact_product(half, 1 / 3)
    assert third.dtype == torch.float32
    torch.testing.assert_close(third.double(), half.double() / 3, rtol=1e-7, atol=0)
    key = "lora_unet_mid_block_attentions_0_proj_in"
    down = torch.randn(8, 32)
    file = {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(2.0)}
    back, _ = to_kohya(converted(file, "sd1", "diffusers"), "sd1", NO_PEFT)
    assert float(back[f"{key}.alpha"]) == 8
    assert torch.equal(back[f"{key}.lora_up.weight"], up * 0.25)


def test_dora_magnitudes_have_the_shape_of_each_program():
    down, up = tensors_of((2, 8), (6, 2))
    conv_down, conv_up = tensors_of((2, 8, 3, 3), (6, 2, 1, 1))
    linear, conv = "lora_unet_mid_block_attentions_0_proj_in", "lora_unet_mid_block_resnets_0_conv1"
    file = {
        f"{linear}.lora_down.weight": down, f"{linear}.lora_up.weight": up, f"{linear}.dora_scale": torch.ones(6, 1),
        f"{conv}.lora_down.weight": conv_down, f"{conv}.lora_up.weight": conv_up, f"{conv}.dora_scale": torch.ones(6, 1, 1, 1),
    }  # fmt: skip
    theirs = converted(file, "sd1", "diffusers")
    assert theirs["unet.mid_block.attentions.0.proj_in.lora_magnitude_vector"].shape == (6,)
    assert theirs["unet.mid_block.resnets.0.conv1.lora_magnitude_vector"].shape == (1, 6, 1, 1)
    back, _ = to_kohya(theirs, "sd1", NO_PEFT)
    assert {name: back[name].shape for name in file} == {name: value.shape for name, value in file.items()}
    file[f"{linear}.dora_scale"] = torch.ones(1, 8)
    with pytest.raises(UserError, match="measures the weight by inputs"):
        converted(file, "sd1", "diffusers")


def test_the_blocks_of_sd_scripts_oft_keep_to_its_limit():
    blocks = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    file = {"oft_unet_mid_block_attentions_0_proj_in.oft_blocks": blocks,
            "oft_unet_mid_block_attentions_0_proj_in.alpha": torch.tensor(0.05)}  # fmt: skip
    found, _ = to_kohya(file, "sd1", NO_PEFT)
    turns = found["lora_unet_mid_block_attentions_0_proj_in.oft_blocks"]
    assert (turns - turns.mT).norm().item() == pytest.approx(0.05 * 32)
    torch.testing.assert_close(turns / turns.norm(), blocks / blocks.norm())
    assert float(found["lora_unet_mid_block_attentions_0_proj_in.alpha"]) == 0


@pytest.mark.parametrize(
    ("names", "family"),
    [
        ({"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": (4, 768)}, "sd1"),
        ({"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": (4, 1024)}, "sd2"),
        ({"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v.lora_A.weight": (4, 2048)}, "sdxl"),
        ({"lora_unet_middle_block_1_transformer_blocks_7_ff_net_2.lora_down.weight": (4, 5120)}, "sdxl"),
        ({"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 768)}, "sd1"),
        ({"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 1024)}, "sd2"),
        ({"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 768)}, "sdxl"),
        ({"text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": (4, 1280)}, "sdxl"),
        ({"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.hada_w1_b": (4, 768)}, "sd1"),
    ],
)
def test_the_family_is_told_by_the_tensors(names, family):
    assert recognise_family({name: torch.zeros(shape) for name, shape in names.items()}, {}) == family


def test_what_the_tensors_leave_open_the_metadata_settles_or_nobody():
    open_ = {"text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": torch.zeros(4, 768)}
    with pytest.raises(UserError, match=r"768 wide, which fits sd1 and sdxl.*--family"):
        recognise_family(open_, {})
    assert recognise_family(open_, {"ss_base_model_version": "sdxl_base_v1-0"}) == "sdxl"
    assert recognise_family(open_, {"modelspec.architecture": "stable-diffusion-v1/lora"}) == "sd1"
    mixed = open_ | {"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v.lora_A.weight": torch.zeros(4, 1024)}
    with pytest.raises(UserError, match="768 wide; but cross attention reads 1024 features"):
        recognise_family(mixed, {})


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["model.diffusion_model.input_blocks.0.0.weight"], "a whole checkpoint"),
        (["emb_params"], "a textual inversion"),
        (["clip_l", "clip_g"], "a textual inversion"),
        (["transformer.single_blocks.0.lora_A.weight"], "another model"),
        (["down_blocks.0.resnets.0.conv1.weight"], "the weights of a UNet"),
        (["what"], "not a LoRA in the layout"),
        (["lora_te_text_model_encoder_layers_0_mlp_fc1.alpha", "bundle_emb.hero.string_to_param.*"], "a textual inversion beside"),
        (["lora_te_text_model_encoder_layers_0_mlp_fc1.alpha", "hello"], "1 of its 2 tensors belong to no LoRA.*hello"),
    ],
)  # fmt: skip
def test_what_is_no_lora_is_called_by_its_name(tmp_path, names, told):
    file = tmp_path / "x.safetensors"
    save_lora(file, {name: torch.zeros(1) for name in names}, {})
    with pytest.raises(UserError, match=rf"x\.safetensors: .*{told}"):
        read_any_style(file, "sd1")


def test_two_names_of_one_tensor_are_refused():
    twins = {"lora_unet_mid_block_attentions_0_proj_in.alpha": torch.tensor(1.0),
             "lora_unet_middle_block_1_proj_in.alpha": torch.tensor(2.0)}  # fmt: skip
    with pytest.raises(UserError, match="two names of one tensor"):
        to_kohya(twins, "sdxl", NO_PEFT)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"a.lora_up.weight": None}, "a: lora_up.weight is missing"),
        ({"a.lora_down.weight": None}, "a: lora_down.weight is missing"),
        ({"a.lora_up.weight": torch.zeros(6, 3)}, "do not fit together"),
        ({"a.lora_up.weight": torch.full((6, 2), torch.nan)}, "a: lora_up.weight holds NaN or infinity"),
        ({"a.alpha": torch.zeros(2)}, "a: alpha is not one finite number"),
        ({"a.lora_down.weight": torch.zeros(2, 8, dtype=torch.int8)}, "hold no fractions"),
        ({"a.lora_up.weight": torch.zeros(6, 3), "a.dora_scale": torch.ones(6, 1)}, "do not fit together"),
    ],
)
def test_damaged_files_are_told(tmp_path, change, told):
    whole = {
        "a.lora_down.weight": torch.zeros(2, 8),
        "a.lora_up.weight": torch.zeros(6, 2),
        "a.alpha": torch.tensor(1.0),
    }
    check_whole(whole, tmp_path / "x.safetensors")
    damaged = {name: value for name, value in (whole | change).items() if value is not None}
    with pytest.raises(UserError, match=f"x.safetensors is damaged: .*{told}"):
        check_whole(damaged, tmp_path / "x.safetensors")


def test_names_of_nothing():
    for name in (
        "",
        ".",
        "unet.",
        "lora_unet_",
        "lora_unet_what.alpha",
        "unet.nothing.lora_A.weight",
        "lora_te_x.alpha",
    ):
        assert parse(name) is None
