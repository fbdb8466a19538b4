from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from library.config.load import LoadedConfig, load_config
from library.core.errors import UserError, UserErrors

Load = Callable[..., LoadedConfig]

CONTRADICTIONS = [
    (
        "network_train_unet_only = true\nnetwork_train_text_encoder_only = true",
        "network_train_unet_only and network_train_text_encoder_only exclude each other: keep one. "
        "[network_train_unet_only: my.toml:1; network_train_text_encoder_only: my.toml:2]",
    ),
    ("learning_rate = 0", "nothing would be trained"),
    ("unet_lr = 0\nnetwork_train_unet_only = true", "nothing would be trained"),
    ("text_encoder_lr = [0, 0]\nnetwork_train_text_encoder_only = true", "nothing would be trained"),
    ("dim_from_weights = true", "dim_from_weights needs network_weights"),
    ('base_weights = ["model.safetensors"]\nbase_weights_multiplier = [1, 2]', "2 values for 1 base_weights"),
    ("cache_latents = true\nrandom_crop = true", "random_crop changes the pictures each time, so"),
    ("cache_latents_to_disk = true\ncolor_aug = true", "color_aug changes the pictures"),
    ("cache_text_encoder_outputs = true", "so they cannot be trained"),
    (
        "cache_text_encoder_outputs_to_disk = true\ntext_encoder_lr = 0\nshuffle_caption = true",
        "shuffle_caption changes",
    ),
    (
        "cache_text_encoder_outputs = true\nnetwork_train_unet_only = true\ncaption_tag_dropout_rate = 0.1",
        "rate changes",
    ),
    ("cache_text_encoder_outputs = true\nnetwork_train_unet_only = true\nenable_wildcard = true", "wildcard changes"),
    ("enable_bucket = true\nmin_bucket_reso = 600", "resolution [512, 512] lies outside of min_bucket_reso 600"),
    ("enable_bucket = true\nresolution = 2048", "to max_bucket_reso 1024: widen"),
    ("masked_loss = true", "masked_loss has no masks"),
    ("prior_prediction_rate = 0.1", "prior_prediction_rate needs trigger_word"),
    ("adaptive_noise_scale = 0.1", "adaptive_noise_scale changes noise_offset, which is not set"),
    ("min_timestep = 500\nmax_timestep = 500", "min_timestep 500 must be below max_timestep 500"),
    ("scale_v_pred_loss_like_noise_pred = true\nv_parameterization = false", "for models that predict v"),
    ("v_pred_like_loss = 0.1\nv_parameterization = true", "for models that predict noise"),
    ("lr_warmup_steps = 200\nmax_train_steps = 100", "lr_warmup_steps 200 is longer than the run of 100 steps"),
    ('vae = "./none.safetensors"', 'vae = "./none.safetensors": no such file or folder'),
    ('tokenizer = "none"', "a hub name would be owner/name"),
    ('network_weights = "none.safetensors"', 'network_weights = "none.safetensors": no such file'),
    ('base_weights = ["none.safetensors"]', 'base_weights = "none.safetensors": no such file'),
    ('sample_prompts = "none.txt"', 'sample_prompts = "none.txt": no such file'),
    ('sample_prompts = "model.safetensors"', "expected a .txt, .toml or .json file"),
    ('conditioning_data_dir = "none"\nmasked_loss = true', 'conditioning_data_dir = "none": no such folder'),
    ('resume = "none-state"', 'resume = "none-state": no such state folder'),
    ('output_name = "a/b"', "a file name cannot hold /"),
    ('output_name = "a."', "expected a file name"),
    ('output_dir = "model.safetensors"', "this is a file, not a folder"),
    ('logging_dir = "model.safetensors"', "this is a file, not a folder"),
    ("blocks_to_swap = 4", "blocks_to_swap needs gradient_checkpointing = true"),
    ("blocks_to_swap = 4\ngradient_checkpointing = 'selective'", "blocks_to_swap needs gradient_checkpointing = true"),
    ("blocks_to_swap = 4\ngradient_checkpointing = true\ntorch_compile = true", "leave one of them out"),
    (
        "network_module = 'networks.peft.hira'\nblocks_to_swap = 4\ngradient_checkpointing = true\nfp8_base = true",
        "leave out quantize_base and blocks_to_swap, or take a network that is not one of networks.peft",
    ),
    (
        "network_module = 'networks.peft.miss'\nquantize_text_encoders = 'nf4'",
        "networks.peft.miss computes with the model's own weights",
    ),
    ("gradient_checkpointing = 'selective'\ntorch_compile = true", "has no place beside it"),
    (
        "base_weights = 'model.safetensors'\nquantize_base = 'int8'",
        "base_weights cannot be merged into quantised weights",
    ),
    ('network_module = "nonesuch_package.lora"', 'no package "nonesuch_package" is installed'),
    ('optimizer_type = "nonesuch_package.Adam"', 'no package "nonesuch_package" is installed'),
]

WARNED = [
    ("noise_offset = 0.1\nmultires_noise_iterations = 6", "one of them is usual. [noise_offset: my.toml:1; multires"),
    ("quantize_text_encoders = 'int8'\ncache_text_encoder_outputs = true\ntext_encoder_lr = 0", "saves nothing with"),
    ("zero_terminal_snr = true", "zero_terminal_snr is meant for models that predict v"),
]


@pytest.mark.parametrize(("text", "message"), CONTRADICTIONS)
def test_contradictions_are_errors(load: Load, text: str, message: str) -> None:
    with pytest.raises(UserErrors) as error:
        load(text)
    assert message in str(error.value)
    assert len(error.value.messages) == 1


@pytest.mark.parametrize(("text", "message"), WARNED)
def test_what_is_probably_not_meant_warns(load: Load, text: str, message: str) -> None:
    (warning,) = load(text).warnings
    assert message in warning


@pytest.mark.parametrize(
    "text",
    [
        "cache_latents = true\nflip_aug = true\ncaption_dropout_rate = 0.1\nshuffle_caption = true",
        "cache_text_encoder_outputs = true\ntext_encoder_lr = 0\ncaption_dropout_rate = 0.1",
        "noise_offset = 0.1\nmultires_noise_iterations = 0\nadaptive_noise_scale = 0.01",
        "masked_loss = true\nalpha_mask = true",
        'resume = "latest"\nsave_state = true\nsave_last_n_steps_state = 10\nsave_every_n_steps = 10',
        "lr_warmup_steps = 2000\nmax_train_epochs = 3",
        "v2 = true\nclip_skip = 1",
        "enable_bucket = true\nbucket_no_upscale = true\nresolution = 2048",
        'vae = "owner/name"\ntokenizer = "pictures"',
        "fp8_base = true\nfp8_base_unet = true\nblocks_to_swap = 8\ngradient_checkpointing = true",
        "network_module = 'networks.peft.miss'\nquantize_text_encoders = 'int8'\nnetwork_train_unet_only = true",
        "prior_prediction_rate = 0.1\ntrigger_word = 'x'",
        "validate_every_n_steps = 10\nvalidation_split = 0.1",
        'output_name = "Ångström (v1.2) 🥋"',
    ],
)
def test_what_goes_together_passes_in_silence(load: Load, text: str) -> None:
    assert load(text).warnings == []


def test_only_the_subset_concerned_is_named(load: Load) -> None:
    text = (
        "cache_latents = true\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'pictures'\n"
        "[[datasets.subsets]]\nimage_dir = 'pictures'\nrandom_crop = true\n"
    )
    with pytest.raises(UserError) as error:
        load(text)
    assert "each time in my.toml:2: datasets[0].subsets[1], so their latents" in str(error.value)


def test_a_value_that_was_not_understood_is_not_complained_of_twice(load: Load) -> None:
    with pytest.raises(UserErrors) as error:
        load('min_timestep = "x"\nmax_timestep = 3\nnetwork_weights = 3\ndim_from_weights = true\n')
    assert len(error.value.messages) == 2


@pytest.mark.parametrize("name", ["./sd15", "/models/sd15", "sd15.safetensors", "a/b/c", "sd15", "..\\sd15"])
def test_a_base_model_that_is_not_there_is_an_error(folder: Path, name: str) -> None:
    with pytest.raises(UserError) as error:
        load_config(["--pretrained_model_name_or_path", name, "--train_data_dir", "pictures"])
    assert f'pretrained_model_name_or_path = "{name}": no such file or folder' in str(error.value)


def test_a_hub_name_passes(folder: Path) -> None:
    argv = ["--pretrained_model_name_or_path", "some-owner/some_model-1.5", "--train_data_dir", "pictures"]
    assert load_config(argv).config.model.pretrained_model_name_or_path == "some-owner/some_model-1.5"


def test_xformers_that_is_not_installed(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "xformers" else object())
    with pytest.raises(UserError, match="xformers is not installed"):
        load('attention = "xformers"')
    loaded = load("xformers = true")
    assert loaded.config.model.attention == "sdpa"
    assert "xformers is not installed" in loaded.warnings[0]


def test_the_launcher_must_agree_on_precision(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(UserError, match="make them agree"):
        load('mixed_precision = "bf16"')
    assert load('mixed_precision = "fp16"').config.training.mixed_precision == "fp16"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert load('mixed_precision = "bf16"').config.training.mixed_precision == "bf16"
