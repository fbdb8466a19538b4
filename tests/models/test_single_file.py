"""Our reading of single files against diffusers' own, and against the folder of the same model."""

from __future__ import annotations

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from library.core.errors import UserError
from library.models.architecture import text_encoder_config, unet_config, vae_config
from library.models.checkpoint import read_folder
from library.models.original_names import without_text_model_level
from library.models.published import recipe
from library.models.random_weights import empty_modules
from library.models.single_file import read_single_file, read_vae_file
from library.models.weights import Weights, read_tensors

FAMILIES = ("sd15", "sd2_v", "sdxl")
NAMES = {"sd15": "sd1", "sd2": "sd2", "sd2_v": "sd2", "sdxl": "sdxl"}


def state_of(weights: Weights) -> dict[str, torch.Tensor]:
    """All tensors as they would reach the module."""
    state = {}
    for stored, tensor in read_tensors(weights):
        for placement in weights[stored]:
            state[placement.name] = placement.transform(tensor) if placement.transform else tensor
    return state


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


@pytest.mark.parametrize("family", FAMILIES)
def test_unet_and_vae_as_diffusers_converts_them(tiny, family):
    file = tiny(family, "file")
    checkpoint = read_single_file(file)
    tensors = load_file(file)
    unet, vae = checkpoint.component("unet"), checkpoint.component("vae")
    assert_same(
        state_of(unet.weights), convert_ldm_unet_checkpoint(dict(tensors), {**unet.config, "class_embed_type": None})
    )
    assert_same(state_of(vae.weights), convert_ldm_vae_checkpoint(dict(tensors), vae.config))


@pytest.mark.parametrize(("family", "component"), [("sd2_v", "text_encoder"), ("sdxl", "text_encoder_2")])
def test_open_clip_as_diffusers_converts_it(tiny, family, component):
    file = tiny(family, "file")
    ours = read_single_file(file).component(component)
    architecture = CLIPTextModelWithProjection if family == "sdxl" else CLIPTextModel
    prefix = "conditioner.embedders.1.model." if family == "sdxl" else "cond_stage_model.model."
    model = architecture(CLIPTextConfig(**ours.config))
    theirs = convert_open_clip_checkpoint(model, load_file(file), prefix=prefix)
    theirs = {without_text_model_level(name): value for name, value in theirs.items()}
    state = state_of(ours.weights)
    shared = state.keys() & theirs.keys()
    assert shared == state.keys()
    assert_same(state, {name: theirs[name] for name in shared})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_and_a_folder_of_one_model_give_the_same_weights(tiny, family):
    file, folder = read_single_file(tiny(family, "file")), read_folder(tiny(family, "folder"))
    assert file.components.keys() == folder.components.keys()
    for name, component in folder.components.items():
        theirs = {without_text_model_level(key): value for key, value in state_of(component.weights).items()}
        assert_same(state_of(file.component(name).weights), theirs)


@pytest.mark.parametrize("name", ["sd15", "sd2", "sdxl"])
def test_settings_read_off_the_shapes_are_the_published_ones(name):
    published = recipe(name)
    modules = empty_modules(published)
    shapes = {
        part: {key: tuple(value.shape) for key, value in module.state_dict().items()}
        for part, module in modules.items()
    }
    family = NAMES[name]
    unet = unet_config(shapes["unet"], family)
    for key, value in published.unet.items():
        if key != "sample_size":
            expected = [value] * 4 if key == "transformer_layers_per_block" and isinstance(value, int) else value
            assert unet[key] == expected, key
    vae = vae_config(shapes["vae"], family)
    assert {key: vae[key] for key in published.vae if key in vae} == {
        key: value for key, value in published.vae.items() if key in vae
    }
    for part, settings in zip(("text_encoder", "text_encoder_2"), published.text_encoders):
        canonical = {without_text_model_level(key): value for key, value in shapes[part].items()}
        found = text_encoder_config(canonical, settings["hidden_act"])
        if name == "sd2":  # whose projection is neither in the module nor read
            found["projection_dim"] = settings["projection_dim"]
        assert found == {key: value for key, value in settings.items() if key in found}


@pytest.mark.parametrize("family", FAMILIES)
def test_both_layouts_predict_the_same(tiny, load, family):
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([3, 900])
    geometry_B6 = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)
    width = {"sd15": 64, "sd2_v": 64, "sdxl": 192}[family]
    conditioning = {"hidden": torch.randn(2, 77, width), "pooled": torch.randn(2, 128)}
    with torch.no_grad():
        predictions = [
            load(tiny(family, layout)).predict(*inputs, conditioning, geometry_B6) for layout in ("folder", "file")
        ]
    assert torch.equal(*predictions)


def test_marks_of_v_prediction_and_zero_terminal_snr_are_read(tiny, tmp_path, load):
    tensors = load_file(tiny("sdxl", "file"))
    marked = tmp_path / "vpred.safetensors"
    save_file({**tensors, "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, marked)
    process = load(marked).process
    assert process.prediction == "v"
    assert process.alphas_bar[-1] == 0
    assert load(tiny("sdxl", "file")).process.prediction == "eps"


def test_vae_from_a_file_of_its_own_in_either_layout(tiny, tmp_path):
    tensors = load_file(tiny("sd15", "file"))
    prefix = "first_stage_model."
    own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    save_file(own, tmp_path / "own.safetensors")
    whole = read_vae_file(tiny("sd15", "file"), "sd1")
    in_folder = tiny("sd15", "folder") / "vae" / "diffusion_pytorch_model.safetensors"
    for file in (tmp_path / "own.safetensors", in_folder):
        assert_same(state_of(read_vae_file(file, "sd1").weights), state_of(whole.weights))


def test_older_names_of_the_vae_attention_are_understood(tiny, tmp_path):
    folder = tiny("sd15", "folder") / "vae"
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, former in old.items():
        tensors = {name.replace(f".{new}.", f".{former}."): value for name, value in tensors.items()}
    save_file(tensors, tmp_path / "old.safetensors")
    current = read_vae_file(folder / "diffusion_pytorch_model.safetensors", "sd1")
    assert_same(state_of(read_vae_file(tmp_path / "old.safetensors", "sd1").weights), state_of(current.weights))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"], "LoRA"),
        (["double_blocks.0.img_attn.qkv.weight"], "Flux"),
        (["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"], "Stable Diffusion 3"),
        (["control_model.zero_convs.0.0.weight"], "ControlNet"),
        (["down_blocks.0.resnets.0.conv1.weight"], "diffusers layout"),
        (["encoder.down.0.block.0.conv1.weight"], "only a VAE"),
        (["encoder.down_blocks.0.resnets.0.conv1.weight"], "only a VAE"),
        (["clip_g", "clip_l"], "textual inversion"),
        (["model.diffusion_model.joint_blocks.0.x", "text_encoders.clip_l.transformer.x"], "Stable Diffusion 3"),
        (["something.else"], "not known here"),
    ],
)
def test_other_files_are_named_and_refused(tmp_path, keys, told):
    file = tmp_path / "other.safetensors"
    save_file({key: torch.zeros(2) for key in keys}, file)
    with pytest.raises(UserError, match=told):
        read_single_file(file)


def test_a_unet_without_text_encoders_is_refused(tiny, tmp_path):
    tensors = {key: value for key, value in load_file(tiny("sd15", "file")).items() if not key.startswith("cond_stage")}
    save_file(tensors, tmp_path / "unet_only.safetensors")
    with pytest.raises(UserError, match="without its text encoders"):
        read_single_file(tmp_path / "unet_only.safetensors")


def test_inpainting_is_refused(tiny, tmp_path):
    tensors = load_file(tiny("sd15", "file"))
    name = "model.diffusion_model.input_blocks.0.0.weight"
    tensors[name] = torch.zeros(tensors[name].shape[0], 9, 3, 3)
    save_file(tensors, tmp_path / "inpainting.safetensors")
    with pytest.raises(UserError, match="inpainting model"):
        read_single_file(tmp_path / "inpainting.safetensors")
