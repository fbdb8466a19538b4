"""LoRA files of other programs act here as there: read from what diffusers itself writes, and written for it."""

from __future__ import annotations

import logging
import re

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict

from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from library.lora_files.convert import converted
from library.lora_files.file import save_lora
from library.lora_files.names.peft_alphas import PeftScales
from library.lora_files.names.styles import to_kohya
from networks.build import build_network
from networks.files.apply import apply_lora
from tests.networks.test_diffusers import pipeline

NO_PEFT = PeftScales({})
FAMILIES = ["sd1", "sd2", "sdxl"]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def outputs(model):
    return {"unet": model.predict(), **{host: model.encode(host) for host in model.hosts if host != "unet"}}


@pytest.fixture
def trained(tiny, disturb):
    """A model with a LoRA, linear and convolutional, of several alphas and ranks: its outputs and the file's tensors."""

    def make(family):
        model = tiny(family)
        arguments = {"conv_dim": 2, "conv_alpha": 3}
        network = build_network(NetworkConfig(network_dim=3, network_alpha=2, network_args=arguments), model.hosts, family, seed=1)  # fmt: skip
        disturb(network)
        return outputs(model), network.state_dict_to_save()

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_converted_files_act_in_diffusers_as_the_network_here(tiny, trained, tmp_path, family):
    expected, tensors = trained(family)
    save_lora(tmp_path / "x.safetensors", converted(tensors, family, "diffusers"), {})
    other = tiny(family)
    pipeline(other).load_lora_weights(tmp_path, weight_name="x.safetensors")
    layers = [
        module for host in other.hosts.values() for module in host.modules() if isinstance(module, BaseTunerLayer)
    ]
    assert len(layers) == sum(name.endswith("alpha") for name in tensors)
    for host, output in outputs(other).items():
        torch.testing.assert_close(output, expected[host], **CLOSE)


def renamed(tensors, rules):
    for pattern, new in rules:
        tensors = {re.sub(pattern, new, name): value for name, value in tensors.items()}
    return tensors


STYLES = {
    "peft": [],
    "diffusers": [(r"^(unet.*)\.lora_A", r"\1.lora.down"), (r"^(unet.*)\.lora_B", r"\1.lora.up"),
                  (r"\.lora_A", ".lora_linear_layer.down"), (r"\.lora_B", ".lora_linear_layer.up")],
    "processors": [(r"(attn\d)\.(to_[qkv])\.lora_", r"\1.processor.\2_lora_"), (r"(attn\d)\.to_out\.0\.lora_", r"\1.processor.to_out_lora_"),
                   (r"_lora_A", "_lora.down"), (r"_lora_B", "_lora.up"), (r"\.lora_A", ".lora.down"), (r"\.lora_B", ".lora.up")],
    "onetrainer": [(r"\.lora_A", ".lora_down"), (r"\.lora_B", ".lora_up"), ("^text_encoder_2", "clip_g"), ("^text_encoder", "clip_l")],
}  # fmt: skip


@pytest.mark.parametrize(("family", "style"), [("sd1", "processors"), *(("sdxl", style) for style in STYLES)])
def test_every_style_is_read_onto_a_model_with_a_notice(tiny, trained, tmp_path, family, style, caplog):
    expected, tensors = trained(family)
    file = tmp_path / "x.safetensors"
    save_lora(file, renamed(converted(tensors, family, "diffusers"), STYLES[style]), {})
    model = tiny(family)
    with caplog.at_level(logging.INFO, "dojo"):
        apply_lora(file, model.hosts, family)
    assert "x.safetensors has the names of" in caplog.text
    for host, output in outputs(model).items():
        torch.testing.assert_close(output, expected[host], **CLOSE)


def test_training_goes_on_from_an_sdxl_file_in_diffusers_names(tiny, trained, tmp_path):
    expected, tensors = trained("sdxl")
    names = converted(tensors, "sdxl", "kohya-diffusers")
    assert not names.keys() & {name for name in tensors if name.startswith("lora_unet")}
    file = tmp_path / "x.safetensors"
    save_lora(file, names, {})
    for config in (NetworkConfig(network_weights=str(file), dim_from_weights=True),
                   NetworkConfig(network_weights=str(file), network_dim=3, network_alpha=2, network_args={"conv_dim": 2, "conv_alpha": 3})):  # fmt: skip
        model = tiny("sdxl")
        network = build_network(config, model.hosts, "sdxl", seed=5)
        for host, output in outputs(model).items():
            torch.testing.assert_close(output, expected[host], **CLOSE)
        saved = network.state_dict_to_save()
        assert saved.keys() == tensors.keys()
        assert all(torch.allclose(saved[name], tensors[name]) for name in saved)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("rslora", [False, True])
def test_what_diffusers_saves_is_read_with_its_alphas(tiny, tmp_path, family, rslora):
    """Not our own names turned around: PEFT's adapters in diffusers' models, saved by the pipeline."""
    source = tiny(family)
    targets = {
        "unet": ["to_q", "to_k", "to_out.0", "conv1", "proj_in"],
        "te1": ["q_proj", "fc1"],
        "te2": ["q_proj", "fc1"],
    }
    alphas = {"unet": {"conv1": 2}, "te1": {"fc1": 7}, "te2": {"fc1": 7}}
    configs = {
        host: LoraConfig(r=3, lora_alpha=5, use_rslora=rslora, init_lora_weights=False,
                         target_modules=targets[host], alpha_pattern=alphas[host])
        for host in source.hosts
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for name, host in source.hosts.items():
            inject_adapter_in_model(configs[name], host)
    layers = {host: get_peft_model_state_dict(module, adapter_name="default") for host, module in source.hosts.items()}
    names = {"unet": "unet", "te1": "text_encoder", "te2": "text_encoder_2"}
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    kind.save_lora_weights(
        tmp_path,
        **{f"{names[host]}_lora_layers": saved for host, saved in layers.items()},
        **{f"{names[host]}_lora_adapter_metadata": config.to_dict() for host, config in configs.items()},
    )
    model = tiny(family)
    apply_lora(tmp_path / "pytorch_lora_weights.safetensors", model.hosts, family)
    for (host, output), expected in zip(outputs(model).items(), outputs(source).values(), strict=True):
        torch.testing.assert_close(output, expected, **CLOSE, msg=lambda text, host=host: f"{host}: {text}")


def test_diffusers_reads_dora_as_converted(tiny, tmp_path):
    """The magnitudes of PEFT's DoRA come back from kohya's names as they were, and it acts the same."""
    source = tiny("sd1")
    config = LoraConfig(
        r=2, lora_alpha=2, use_dora=True, init_lora_weights=False, target_modules=["to_q", "conv1", "proj_in"]
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        inject_adapter_in_model(config, source.hosts["unet"])
    theirs = {
        f"unet.{name}": value
        for name, value in get_peft_model_state_dict(source.hosts["unet"], adapter_name="default").items()
    }
    kohya, style = to_kohya(theirs, "sd1", NO_PEFT)
    assert style == "peft"
    shapes = {tuple(value.shape[1:]) for name, value in kohya.items() if name.endswith("dora_scale")}
    assert shapes == {(1,), (1, 1, 1)}
    back = converted(kohya, "sd1", "diffusers")
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], theirs[name]) for name in back)
    save_lora(tmp_path / "x.safetensors", back, {})
    model = tiny("sd1")
    pipeline(model).load_lora_weights(tmp_path, weight_name="x.safetensors")
    torch.testing.assert_close(model.predict(), source.predict(), **CLOSE)


def test_what_a_lora_cannot_hold_is_named_not_dropped(tiny, trained, tmp_path):
    _, tensors = trained("sd1")
    file = tmp_path / "x.safetensors"
    site = "lora_unet_mid_block_resnets_0_conv1"
    for extra, told in (
        (f"{site}.diff_b", "diff_b"),
        ("lora_unet_mid_block_resnets_0_norm1.w_norm", "lora_unet_mid_block_resnets_0_norm1"),
        ("bundle_emb.hero.string_to_param.*", "a textual inversion beside the LoRA"),
    ):
        save_lora(file, tensors | {extra: torch.zeros(32)}, {})
        with pytest.raises(UserError, match=told):
            apply_lora(file, tiny("sd1").hosts, "sd1")


@pytest.mark.parametrize("part", ["lora_unet", "lora_te1", "lora_te2"])
def test_files_of_one_part_alone(tiny, trained, tmp_path, part):
    _, tensors = trained("sdxl")
    alone = {name: value for name, value in tensors.items() if name.startswith(part)}
    save_lora(tmp_path / "kohya.safetensors", alone, {})
    save_lora(tmp_path / "diffusers.safetensors", converted(alone, "sdxl", "diffusers"), {})
    acting = []
    for style in ("kohya", "diffusers"):
        model = tiny("sdxl")
        apply_lora(tmp_path / f"{style}.safetensors", model.hosts, "sdxl")
        acting.append(outputs(model))
    frozen = outputs(tiny("sdxl"))
    host = part.removeprefix("lora_")
    for name, output in acting[0].items():
        torch.testing.assert_close(acting[1][name], output, **CLOSE)
        assert torch.equal(output, frozen[name]) == (name != host)
