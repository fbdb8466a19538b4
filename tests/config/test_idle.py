from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from library.config.catalog import catalog
from library.config.idle import IDLE
from library.config.load import LoadedConfig, load_config

Load = Callable[..., LoadedConfig]

TABLE = "[[datasets]]\n{dataset}\n[[datasets.subsets]]\nimage_dir = 'pictures'\n{subset}\n"
NO_PICTURE = (
    "has no effect without sample_every_n_steps, sample_every_n_epochs or sample_at_first: no picture will be made"
)
LEFT_TO_TABLES = "has no effect as dataset tables are given"

# (what is set in vain, what is said of it, what gives it an effect)
IN_VAIN = [
    ("resume_with_changes = true", "without resume", "resume = 'latest'"),
    ("halve_batch_on_oom = true", "has no effect with train_batch_size = 1", "train_batch_size = 2"),
    ("nan_limit = 3", 'without on_nan = "skip" or "rollback"', 'on_nan = "skip"'),
    ("dataset_repeats = 2", "has no effect without in_json", "in_json = 'data.json'"),
    ("vae_batch_size = 2", "without cache_latents", "cache_latents_to_disk = true"),
    (
        "text_encoder_batch_size = 2",
        "without cache_text_encoder_outputs",
        "cache_text_encoder_outputs = true\ntext_encoder_lr = 0",
    ),
    ("min_bucket_reso = 128", "has no effect without enable_bucket", "enable_bucket = true"),
    ("max_bucket_reso = 2048", "has no effect without enable_bucket", "enable_bucket = true"),
    ("bucket_reso_steps = 32", "has no effect without enable_bucket", "enable_bucket = true"),
    ("bucket_no_upscale = true", "has no effect without enable_bucket", "enable_bucket = true"),
    ("keep_tokens = 1", "has no effect without shuffle_caption", "shuffle_caption = true"),
    ("keep_tokens = 1", "caption_tag_dropout_rate", "caption_tag_dropout_rate = 0.1"),
    ("keep_tokens = 1", "token_warmup_step", "token_warmup_step = 10"),
    ("token_warmup_min = 3", "has no effect without token_warmup_step", "token_warmup_step = 10"),
    ("conditioning_data_dir = 'pictures'", "has no effect without masked_loss", "masked_loss = true"),
    ("validate_every_n_steps = 10", "has no effect without validation_split", "validation_split = 0.1"),
    ("validate_every_n_epochs = 10", "has no effect without validation_split", "validation_split = 0.1"),
    ("validation_timesteps = [500]", "has no effect without validation_split", "validation_split = 0.1"),
    ("validation_seed = 1", "has no effect without validation_split", "validation_split = 0.1"),
    ("max_validation_steps = 10", "has no effect without validation_split", "validation_split = 0.1"),
    ("huber_c = 0.5", "has no effect without loss_type", "loss_type = 'huber'"),
    ("huber_schedule = 'constant'", "has no effect without loss_type", "loss_type = 'smooth_l1'"),
    ("huber_scale = 2", "has no effect without loss_type", "loss_type = 'huber'"),
    ("prior_loss_weight = 0.5", "has no effect without regularisation pictures", "reg_data_dir = 'pictures'"),
    (
        "prior_prediction_weight = 0.5",
        "has no effect without prior_prediction_rate",
        "prior_prediction_rate = 0.1\ntrigger_word = 'x'",
    ),
    ("noise_offset_random_strength = true", "has no effect without noise_offset", "noise_offset = 0.1"),
    ("multires_noise_discount = 0.1", "without multires_noise_iterations", "multires_noise_iterations = 6"),
    ("ip_noise_gamma_random_strength = true", "has no effect without ip_noise_gamma", "ip_noise_gamma = 0.1"),
    ("save_last_n_epochs = 10", "without save_every_n_epochs or save_n_epoch_ratio", "save_n_epoch_ratio = 2"),
    ("save_last_n_steps = 10", "has no effect without save_every_n_steps", "save_every_n_steps = 10"),
    ("save_last_n_epochs_state = 10", "has no effect without save_state", "save_state = true"),
    ("save_last_n_steps_state = 10", "has no effect without save_state", "save_state = true"),
    ("resume_with_new_schedule = true", "has no effect without resume", "resume = 'latest'"),
    (
        "sample_at_first = true",
        "has no effect without sample_prompts, the file of prompts. [sample_at_first: my.toml:1]",
        "sample_prompts = 'prompts.txt'",
    ),
    ("sample_every_n_steps = 5", "without sample_prompts", "sample_prompts = 'prompts.txt'"),
    ("sample_every_n_epochs = 5", "without sample_prompts", "sample_prompts = 'prompts.txt'"),
    ("sample_sampler = 'euler'", "without sample_prompts", "sample_prompts = 'prompts.txt'\nsample_at_first = true"),
    ("sample_prompts = 'prompts.txt'", NO_PICTURE, "sample_every_n_steps = 5"),
    ("dynamo_backend = 'eager'", "has no effect without torch_compile", "torch_compile = true"),
]

# (settings of which one takes the other's effect away, what is said)
AGAINST_EACH_OTHER = [
    ("enable_bucket = true\nbucket_no_upscale = true\nmin_bucket_reso = 128", "with bucket_no_upscale"),
    ("max_train_steps = 10\nmax_train_epochs = 2", "max_train_steps has no effect beside max_train_epochs"),
    (
        "network_train_unet_only = true\ntext_encoder_lr = 1e-4",
        "text_encoder_lr has no effect with network_train_unet_only",
    ),
    (
        "network_layers = [{match = 'attn2', dim = 2}]\ndim_from_weights = true\nnetwork_weights = 'model.safetensors'",
        "network_layers has no effect in dim and alpha with dim_from_weights = true",
    ),
    ("network_train_text_encoder_only = true\nunet_lr = 1e-4", "unet_lr has no effect with network_train_text"),
    (
        "network_module = 'networks.ia3'\nnetwork_dim = 8\nnetwork_alpha = 8",
        "network_dim and network_alpha have no effect with networks.ia3",
    ),
    (
        "network_module = 'networks.lokr'\nnetwork_dim = 8\nnetwork_args = ['full_matrix=True']",
        "network_dim has no effect",
    ),
    (
        "save_every_n_epochs = 2\nsave_n_epoch_ratio = 2",
        "save_every_n_epochs has no effect beside save_n_epoch_ratio",
    ),
    (
        "sample_prompts = 'prompts.txt'\nsample_every_n_steps = 5\nsample_every_n_epochs = 2",
        "sample_every_n_steps has no effect beside sample_every_n_epochs",
    ),
    ("training_comment = 'x'\nno_metadata = true", "training_comment has no effect with no_metadata"),
    (
        "metadata_title = 'x'\nmetadata_author = 'y'\nmetadata_tags = 'z'\nno_metadata = true",
        "metadata_title, metadata_author and metadata_tags have no effect with no_metadata = true. "
        "[metadata_title: my.toml:1; metadata_author: my.toml:2; metadata_tags: my.toml:3]",
    ),
    (
        "logging_dir = 'l'\nlog_prefix = 'p'\nlog_tracker_name = 't'\nlog_every_n_steps = 5\nlog_with = 'none'",
        "logging_dir, log_prefix, log_tracker_name and log_every_n_steps have no effect with log_with",
    ),
    ("torch_compile = true\ndynamo_backend = 'no'", 'torch_compile has no effect with dynamo_backend = "no"'),
    ("persistent_data_loader_workers = true", "workers always live as long as the run"),
    (TABLE.format(dataset="", subset=""), f"train_data_dir {LEFT_TO_TABLES}"),
]


@pytest.fixture(autouse=True)
def named_files(folder: Path) -> None:
    Path("prompts.txt").write_text("a fighter\n", encoding="utf-8")
    Path("data.json").write_text("{}", encoding="utf-8")


@pytest.mark.parametrize(("vain", "said", "cure"), IN_VAIN)
def test_a_setting_in_vain_warns_until_it_is_given_an_effect(load: Load, vain: str, said: str, cure: str) -> None:
    (warning,) = load(vain).warnings
    assert said in warning
    assert load(f"{vain}\n{cure}").warnings == []


@pytest.mark.parametrize(("text", "said"), AGAINST_EACH_OTHER)
def test_a_setting_whose_effect_another_takes_away_warns(load: Load, text: str, said: str) -> None:
    (warning,) = load(text).warnings
    assert said in warning


def test_every_rule_is_tried_here() -> None:
    tried = " ".join(text for text, *_ in [*IN_VAIN, *AGAINST_EACH_OTHER])
    untried = {"reg_data_dir", "in_json", "train_data_dir"}
    untried |= {key for key in catalog() if key.startswith("metadata_") and f"{key} = " not in tried}
    untried.add("allow_pickle")  # needs a file: tests/models/test_pickles.py
    assert {key for rule in IDLE for key in rule.keys if f"{key} = " not in tried} == untried
    assert all(key in catalog() for rule in IDLE for key in rule.keys)


def test_defaults_that_are_written_out_pass_in_silence(load: Load) -> None:
    text = "huber_c = 0.1\nmax_bucket_reso = 1024\nprior_loss_weight = 1\nkeep_tokens = 0\nsample_every_n_steps = 0\n"
    assert load(text).warnings == []


def test_rates_of_zero_agree_with_what_is_trained(load: Load) -> None:
    assert load("network_train_unet_only = true\ntext_encoder_lr = 0").warnings == []
    assert load("network_train_text_encoder_only = true\nunet_lr = 0").warnings == []


def test_what_presets_set_passes_in_silence_and_what_the_user_sets_over_it_does_not(load: Load) -> None:
    text = (
        "extends = ['character']\ntrigger_word = 'x'\nsave_state = false\nenable_bucket = false\nvalidation_split = 0\n"
    )
    assert load(text).warnings == []
    (warning,) = load(text, "--validate_every_n_steps", "50").warnings
    assert warning.endswith("[validate_every_n_steps: command line]")


def test_the_demo_passes_in_silence(folder: Path) -> None:
    assert load_config([]).warnings == []


@pytest.mark.parametrize(
    ("text", "dataset", "subset"),
    [
        ("min_bucket_reso = 128", "enable_bucket = true", ""),
        ("validation_seed = 1", "validation_split = 0.1", ""),
        ("max_validation_steps = 1", "validation_split = 0.1", ""),
        ("keep_tokens = 1", "shuffle_caption = true", ""),
        ("token_warmup_min = 2", "", "token_warmup_step = 10"),
        ("prior_loss_weight = 0.5", "", "is_reg = true"),
        ("masked_loss = true", "", "conditioning_data_dir = 'pictures'"),
    ],
)
def test_an_effect_on_one_dataset_is_enough(load: Load, text: str, dataset: str, subset: str) -> None:
    tables = TABLE.format(dataset="", subset="") + TABLE.format(dataset=dataset, subset=subset)
    assert load(f"{text}\n{tables}", "--train_data_dir=").warnings == []


@pytest.mark.parametrize(
    ("dataset", "subset", "said"),
    [
        ("min_bucket_reso = 128", "", "min_bucket_reso has no effect without enable_bucket"),
        ("", "keep_tokens = 2", "keep_tokens has no effect"),
        ("", "conditioning_data_dir = 'pictures'", "without masked_loss"),
    ],
)
def test_what_a_table_sets_in_vain_warns(load: Load, dataset: str, subset: str, said: str) -> None:
    (warning,) = load(TABLE.format(dataset=dataset, subset=subset), "--train_data_dir=").warnings
    assert said in warning


def test_repeats_are_those_of_tables_too(load: Load) -> None:
    loaded = load("dataset_repeats = 3\n" + TABLE.format(dataset="", subset=""), "--train_data_dir=")
    assert loaded.warnings == []
