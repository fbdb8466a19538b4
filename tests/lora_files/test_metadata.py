"""What LoRA files say of themselves."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from library.config.schema import Config, DataConfig, NetworkConfig, OptimizerConfig, SavingConfig
from library.config.schema.model import ModelConfig
from library.core.errors import UserError
from library.lora_files.essentials import with_essentials
from library.lora_files.metadata import SETTINGS, RunFacts, architecture, as_data_url, lora_metadata

RUN = RunFacts(
    family="sd1",
    predicts_v=False,
    seed=7,
    session_id=99,
    started_at=1700000000.5,
    finished_at=1700003600.0,
    steps=500,
    epoch=5,
    max_train_steps=1000,
    num_epochs=10,
    num_batches_per_epoch=100,
    total_batch_size=4,
)
BASE = {"ss_base_model_version": "sd_v1", "ss_v2": "False", "ss_sd_model_name": "model.safetensors"}
NETWORK = {
    "ss_network_module": "networks.lora",
    "ss_network_dim": "8",
    "ss_network_alpha": "4.0",
    "ss_network_args": '{"conv_dim": 4}',
}
DATA = {
    "ss_tag_frequency": {"10_hero": {"smile": 3, "hero": 9, "hat": 2}},
    "ss_dataset_dirs": {"10_hero": {"n_repeats": 10, "img_count": 9}},
    "ss_num_train_images": 90,
    "ss_bucket_info": None,
}


def config(**groups):
    return replace(Config(saving=SavingConfig(output_name="hero")), **groups)


def test_everything_is_text_and_nested_values_are_json():
    entries = lora_metadata(config(), RUN, BASE, NETWORK, DATA)
    assert all(isinstance(value, str) for value in entries.values())
    assert json.loads(entries["ss_tag_frequency"]) == DATA["ss_tag_frequency"]
    assert entries["ss_num_train_images"] == "90"
    assert "ss_bucket_info" not in entries
    assert BASE.items() <= entries.items() and NETWORK.items() <= entries.items()


def test_values_that_readers_look_for():
    optimizer = OptimizerConfig(optimizer_type="AdamW8bit", optimizer_args={"weight_decay": 0.1}, unet_lr=1e-4)
    entries = lora_metadata(config(optimizer=optimizer, model=ModelConfig(clip_skip=2)), RUN, BASE, NETWORK, DATA)
    expected = {
        "ss_output_name": "hero",
        "ss_steps": "500",
        "ss_epoch": "5",
        "ss_seed": "7",
        "ss_session_id": "99",
        "ss_training_started_at": "1700000000.5",
        "ss_resolution": "(512, 512)",
        "ss_optimizer": "AdamW8bit(weight_decay=0.1)",
        "ss_unet_lr": "0.0001",
        "ss_text_encoder_lr": "None",
        "ss_clip_skip": "2",
        "ss_total_batch_size": "4",
        "modelspec.encoder_layer": "2",
    }
    assert expected.items() <= entries.items()


def test_settings_name_options_that_exist():
    for group, names in SETTINGS.items():
        known = {field.name for field in fields(getattr(Config(), group))}
        assert set(names) <= known


def test_modelspec():
    saving = SavingConfig(output_name="hero", metadata_title="My hero", metadata_author="me")
    entries = lora_metadata(config(saving=saving, data=DataConfig(trigger_word="hro")), RUN, BASE, NETWORK, DATA)
    spec = {key.removeprefix("modelspec."): value for key, value in entries.items() if key.startswith("modelspec.")}
    assert {
        "sai_model_spec": "1.0.1",
        "architecture": "stable-diffusion-v1/lora",
        "implementation": "diffusers",
        "title": "My hero",
        "author": "me",
        "resolution": "512x512",
        "trigger_phrase": "hro",
        "prediction_type": "epsilon",
    }.items() <= spec.items()
    assert "hro" in spec["usage_hint"] and "description" not in spec
    assert spec["date"].startswith("2023-11-1")


def test_modelspec_that_the_user_words(tmp_path):
    picture = tmp_path / "thumb.png"
    picture.write_bytes(b"\x89PNG")
    saving = SavingConfig(
        output_name="hero",
        metadata_usage_hint="say hero",
        metadata_trigger_phrase="a hero",
        metadata_thumbnail=str(picture),
        metadata_merged_from="a, b",
    )
    entries = lora_metadata(config(saving=saving, data=DataConfig(trigger_word="hro")), RUN, BASE, NETWORK, DATA)
    assert entries["modelspec.usage_hint"] == "say hero"
    assert entries["modelspec.trigger_phrase"] == "a hero"
    assert entries["modelspec.thumbnail"] == "data:image/png;base64,iVBORw=="
    assert entries["modelspec.merged_from"] == "a, b" and "modelspec.preprocessor" not in entries
    assert as_data_url("data:x") == "data:x"
    with pytest.raises(UserError, match="metadata_thumbnail"):
        as_data_url(str(tmp_path / "none.png"))


@pytest.mark.parametrize(
    ("family", "predicts_v", "name"),
    [
        ("sd1", False, "stable-diffusion-v1/lora"),
        ("sd2", False, "stable-diffusion-v2-512/lora"),
        ("sd2", True, "stable-diffusion-v2-768-v/lora"),
        ("sdxl", False, "stable-diffusion-xl-v1-base/lora"),
    ],
)
def test_architectures(family, predicts_v, name):
    assert architecture(family, predicts_v) == name


def test_no_metadata_leaves_what_loading_needs():
    entries = lora_metadata(
        config(saving=SavingConfig(no_metadata=True), network=NetworkConfig()), RUN, BASE, NETWORK, DATA
    )
    assert entries == {
        "ss_v2": "False",
        "ss_base_model_version": "sd_v1",
        **NETWORK,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
    }


def test_no_trigger_is_claimed_that_nobody_named():
    entries = lora_metadata(config(), RUN, BASE, NETWORK, {"ss_tag_frequency": {"10_hero": {"1girl": 30}}})
    assert "modelspec.trigger_phrase" not in entries and "modelspec.usage_hint" not in entries


@pytest.mark.parametrize(
    ("family", "predicts", "version"), [("sd2", "v", "sd_v2_v"), ("sd2", "epsilon", "sd_v2"), ("sd1", "v", "sd_v1_v")]
)
def test_the_base_version_says_what_the_model_predicts(family: str, predicts: str, version: str) -> None:
    """As sd-scripts' `get_model_version_str_for_sd1_sd2`."""
    found = with_essentials({"modelspec.prediction_type": predicts}, {}, family)
    assert found["ss_base_model_version"] == version
