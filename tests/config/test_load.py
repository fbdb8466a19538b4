from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from library.config.load import LoadedConfig, load_config
from library.config.places import PROJECT_ROOT
from library.core.errors import UserError, UserErrors

Load = Callable[..., LoadedConfig]


def mistakes(load: Load, text: str, *argv: str) -> list[str]:
    with pytest.raises(UserErrors) as error:
        load(text, *argv)
    return error.value.messages


# ---------------------------------------------------------------- what wins


def test_defaults_then_file_then_command_line(load: Load) -> None:
    loaded = load("network_dim = 8\nnetwork_alpha = 4\n", "--network_alpha", "2")
    network = loaded.config.network
    assert (network.network_dim, network.network_alpha, network.network_module) == (8, 2.0, "networks.lora")
    assert loaded.sources["network_dim"] == "my.toml:1"
    assert loaded.sources["network_alpha"] == "command line"
    assert loaded.sources["network_module"] == "default"


def test_sections_are_free_and_may_be_left_out(load: Load) -> None:
    text = 'network_dim = 8\n\n[anything]\nseed = 3\n[optimizer_arguments]\n"learning_rate" = 1e-3\n\n[network]\nclip_skip = 2\n'
    loaded = load(text)
    assert loaded.config.network.network_dim == 8
    assert loaded.config.training.seed == 3
    assert loaded.config.optimizer.learning_rate == 1e-3
    assert loaded.sources["learning_rate"] == "my.toml:6"
    assert loaded.sources["clip_skip"] == "my.toml:9"


def test_presets_compose_later_wins_then_the_file(load: Load, folder: Path) -> None:
    (folder / "a.toml").write_text("network_dim = 1\nseed = 1\nclip_skip = 1\n", encoding="utf-8")
    (folder / "sub").mkdir()
    (folder / "sub" / "b.toml").write_text('extends = "../a"\nnetwork_dim = 2\nseed = 2\n', encoding="utf-8")
    (folder / "c.toml").write_text("network_dim = 3\n", encoding="utf-8")
    loaded = load('extends = ["sub/b.toml", "c"]\nmax_train_steps = 5\n')
    assert (loaded.config.network.network_dim, loaded.config.training.seed, loaded.config.model.clip_skip) == (3, 2, 1)
    assert [file.name for file in loaded.files] == ["a.toml", "b.toml", "c.toml", "my.toml"]
    assert loaded.config.config.extends == []
    assert load('extends = ["c", "sub/b"]\n').config.network.network_dim == 2


def test_presets_named_on_the_command_line_are_laid_over_the_file(load: Load, folder: Path) -> None:
    (folder / "tier.toml").write_text("network_dim = 9\nseed = 9\n", encoding="utf-8")
    loaded = load("network_dim = 1\n", "--extends", "tier", "--seed", "4")
    assert (loaded.config.network.network_dim, loaded.config.training.seed) == (9, 4)
    assert loaded.sources["network_dim"] == "tier.toml:1"


def test_presets_are_found_by_name(load: Load) -> None:
    assert load('extends = ["memory/8gb"]').config.training.gradient_checkpointing
    assert load("", "--extends", "memory/24gb").sources["vae_batch_size"].startswith("presets/memory/24gb.toml:")


def test_extends_in_a_circle_is_an_error(load: Load, folder: Path) -> None:
    (folder / "a.toml").write_text('extends = ["b"]\n', encoding="utf-8")
    (folder / "b.toml").write_text('extends = ["a"]\n', encoding="utf-8")
    (message,) = mistakes(load, 'extends = ["a"]')
    assert "a.toml -> b.toml -> a.toml" in message


def test_a_preset_that_does_not_exist_is_named_with_a_suggestion(load: Load) -> None:
    (message,) = mistakes(load, 'extends = ["memory/8bg"]')
    assert 'my.toml:1: extends = "memory/8bg": no such file' in message
    assert "Did you mean 'memory/8gb'?" in message


@pytest.mark.parametrize("value", ["3", "[3]", '[""]'])
def test_extends_of_another_type_is_an_error(load: Load, value: str) -> None:
    assert "expected a preset or file" in mistakes(load, f"extends = {value}")[0]


# ---------------------------------------------------------------- reading files


def test_the_file_may_be_named_without_ending_and_by_either_flag(folder: Path) -> None:
    text = 'pretrained_model_name_or_path = "model.safetensors"\ntrain_data_dir = "pictures"\nseed = 7\n'
    Path("x.toml").write_text(text, encoding="utf-8")
    for argv in (["--config", "x"], ["--config_file", "x.toml"], ["--config-file=x"], ["--config", str(folder / "x")]):
        assert load_config(argv).config.training.seed == 7


def test_a_byte_order_mark_is_tolerated(folder: Path) -> None:
    text = 'seed = 7\npretrained_model_name_or_path = "model.safetensors"\ntrain_data_dir = "pictures"\n'
    Path("x.toml").write_text(text, encoding="utf-8-sig")
    assert load_config(["--config", "x"]).config.training.seed == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed = 1\nname = unquoted\n", "x.toml:2: not valid TOML"),
        (b"seed = 1\nseed = 2\n", "x.toml:2: not valid TOML"),
        (b"seed = True\n", "x.toml:1: not valid TOML"),
        ("seed = 1".encode("utf-16"), "x.toml: not UTF-8 text"),
    ],
)
def test_files_that_cannot_be_read_as_toml(folder: Path, content: bytes, message: str) -> None:
    Path("x.toml").write_bytes(content)
    with pytest.raises(UserError) as error:
        load_config(["--config", "x"])
    assert message in str(error.value)


def test_a_missing_file_is_named_with_the_presets_there_are(folder: Path) -> None:
    with pytest.raises(UserError) as error:
        load_config(["--config", "charakter"])
    assert "Did you mean 'character'?" in str(error.value)
    assert "memory/8gb" in str(error.value)


def test_a_key_set_twice_in_sections_of_one_file_is_an_error(load: Load) -> None:
    text = "[a]\nseed = 1\n[b]\nseed = 2\nbatch_size = 2\ntrain_batch_size = 3\n"
    first, second = mistakes(load, text)
    assert "my.toml:4: 'seed' is set again, to 2; it is 1 at my.toml:2" in first
    assert "'train_batch_size' is set again" in second


def test_dataset_tables_in_the_config_keep_their_general_table(load: Load, folder: Path) -> None:
    text = (
        "[general]\nkeep_tokens = 2\nlearning_rate = 1e-3\n"
        '[[datasets]]\nresolution = 64\nmin_bucket_reso = 32\n[[datasets.subsets]]\nimage_dir = "pictures"\n'
    )
    loaded = load(text, "--train_data_dir=")
    assert loaded.config.data.general == {"keep_tokens": 2}
    assert loaded.config.optimizer.learning_rate == 1e-3
    assert loaded.config.data.datasets[0]["subsets"] == [{"image_dir": "pictures"}]
    assert load("[general]\nkeep_tokens = 2\n").config.captions.keep_tokens == 2


def test_mistakes_in_dataset_tables_name_the_file(load: Load) -> None:
    messages = mistakes(load, '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "pictures"\nkeep_tokenz = 1\n')
    assert any("my.toml:1: datasets[0].subsets[0]: unknown key 'keep_tokenz'" in message for message in messages)


# ---------------------------------------------------------------- the command line


def test_flags_lists_and_spellings_of_the_command_line(load: Load) -> None:
    loaded = load(
        "cache_latents = true\nshuffle_caption = true\n",
        *["--no-cache_latents", "--shuffle-caption", "false", "--flip_aug", "--no_metadata", "--no-half-vae", "true"],
        *[
            "--network_args",
            "conv_dim=4",
            "conv_alpha=1",
            "--text_encoder_lr",
            "1e-4",
            "5e-5",
            "--resolution",
            "768,512",
        ],
        *["--validation_timesteps", "100", "200", "--noise_offset=0.05", "--adaptive_noise_scale", "-0.1"],
    )
    config = loaded.config
    assert (config.data.cache_latents, config.captions.shuffle_caption, config.images.flip_aug) == (False, False, True)
    assert (config.saving.no_metadata, config.model.no_half_vae) == (True, True)
    assert config.network.network_args == {"conv_dim": "4", "conv_alpha": "1"}
    assert config.optimizer.text_encoder_lr == [1e-4, 5e-5]
    assert config.buckets.resolution == [768, 512]
    assert config.validation.validation_timesteps == [100, 200]
    assert config.noise.adaptive_noise_scale == -0.1


def test_mistakes_of_the_command_line(load: Load) -> None:
    messages = mistakes(
        load, "", "--seed", "--network_dim", "1", "2", "--no-flip_aug", "1", "--datasets", "x", "--extends"
    )
    assert messages == [
        "command line: --seed needs one value, found none.",
        "command line: --network_dim needs one value, found 1 2.",
        "command line: --no_flip_aug takes no value, found 1.",
        "command line: --datasets is a table: write it in a file.",
        "command line: --extends needs at least one preset or file.",
    ]
    with pytest.raises(UserError, match="'character' stands alone"):
        load_config(["character"])
    with pytest.raises(UserError, match="two files"):
        load_config(["--config", "character", "--config_file", "hires"])
    with pytest.raises(UserError, match="--config needs one file"):
        load_config(["--config"])


def test_of_an_option_given_twice_on_the_command_line_the_last_counts(load: Load) -> None:
    assert load("", "--seed", "1", "--seed", "2").config.training.seed == 2


@pytest.mark.parametrize(
    ("text", "argv", "value"),
    [
        ("gradient_checkpointing = true", [], True),
        ("gradient_checkpointing = 'selective'", [], "selective"),
        ("gradient_checkpointing = 'selective'", ["--no_gradient_checkpointing"], False),
        ("", ["--gradient_checkpointing"], True),
        ("", ["--gradient_checkpointing", "selective"], "selective"),
    ],
)
def test_a_switch_with_a_third_position(load: Load, text: str, argv: list[str], value: bool | str) -> None:
    assert load(text, *argv).config.training.gradient_checkpointing == value


def test_a_switch_has_no_fourth_position(load: Load) -> None:
    (message,) = mistakes(load, "gradient_checkpointing = 'partly'")
    assert message.endswith('expected true or false or "selective".')


def test_fp8_base_is_a_way_to_quantise(load: Load) -> None:
    assert load("fp8_base = true").config.model.quantize_base == "fp8"
    assert load("fp8_base = false\nquantize_base = 'int8'").config.model.quantize_base == "int8"


def test_an_option_can_be_unset(load: Load) -> None:
    text = "min_snr_gamma = 5.0\nsave_every_n_steps = 100\n"
    loaded = load(text, "--min_snr_gamma", "None", "--save_every_n_steps=")
    assert loaded.config.loss.min_snr_gamma is None
    assert loaded.config.saving.save_every_n_steps is None


# ---------------------------------------------------------------- values


def test_sd_scripts_spellings_of_values(load: Load) -> None:
    loaded = load(
        'network_alpha = 16\nlearning_rate = 1\nresolution = "512,768"\nlr_warmup_steps = "5%"\nmax_train_steps = 1e3\n'
        'text_encoder_lr = 5e-5\noptimizer_args = ["weight_decay=0.01", "betas=0.9,0.99"]\nmin_snr_gamma = 0\nvae = ""\n'
        'max_token_length = 225\nsave_precision = "fp16"\noptimizer_type = "adamw8bit"\nnetwork_args = {conv_dim = 4}\n'
        'base_weights = "model.safetensors"\nseed = "5"\n'
    ).config
    assert type(loaded.network.network_alpha) is float and loaded.network.network_alpha == 16
    assert loaded.buckets.resolution == [512, 768]
    assert loaded.schedule.lr_warmup_steps == 0.05
    assert loaded.training.max_train_steps == 1000 and type(loaded.training.max_train_steps) is int
    assert loaded.optimizer.text_encoder_lr == [5e-5]
    assert loaded.optimizer.optimizer_args == {"weight_decay": "0.01", "betas": "0.9,0.99"}
    assert loaded.loss.min_snr_gamma is None and loaded.model.vae is None
    assert loaded.model.max_token_length == 225
    assert loaded.optimizer.optimizer_type == "AdamW8bit"
    assert loaded.network.network_args == {"conv_dim": 4}
    assert loaded.network.base_weights == ["model.safetensors"]
    assert loaded.training.seed == 5


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('network_dim = "many"', 'my.toml:1: network_dim = "many": expected a whole number.'),
        ("network_dim = true", "network_dim = true: expected a whole number."),
        ("network_dim = 0", "network_dim = 0: expected at least 1."),
        ("network_dim = 1.5", "network_dim = 1.5: expected a whole number."),
        ("learning_rate = [1]", "learning_rate = [1]: expected a number."),
        ("learning_rate = -1", "expected at least 0."),
        ("learning_rate = nan", "expected a number."),
        ('shuffle_caption = "maybe"', 'shuffle_caption = "maybe": expected true or false.'),
        ("output_name = 5", "output_name = 5: expected text in quotes."),
        ('mixed_precision = "bf17"', 'expected one of "no", "fp16", "bf16".'),
        ("resolution = 0", "resolution = 0: expected a number such as 512"),
        ("resolution = [1, 2, 3]", "expected a number such as 512"),
        ("resolution = 512.5", "expected a number such as 512"),
        ("lr_warmup_steps = 1.5", "expected a whole number of steps"),
        ('lr_warmup_steps = "150%"', "expected a whole number of steps"),
        ("caption_dropout_rate = 1.1", "expected a number from 0 to 1."),
        ('network_args = ["conv_dim"]', 'expected a table {name = value}, or a list ["name=value"].'),
        ('network_args = ["a=1", "a=2"]', "expected each argument once."),
        ("max_token_length = 100", "expected 75, 150 or 225."),
        ("validation_timesteps = [1, 1000]", "expected a number from 0 to 999."),
        ('optimizer_type = "AdamW9bit"', "or a dotted path to your own (did you mean 'AdamW8bit'?)."),
        ('face_crop_aug_range = "2"', "expected two numbers from low to high"),
        ("seed = 2024-01-01", "my.toml:1: seed: dates and times are not understood"),
        ("use_8bit_adam = 3", "my.toml:1: use_8bit_adam = 3: expected true or false."),
        ("text_encoder_lr = [1, -1]", "expected at least 0."),
        ("text_encoder_lr = true", "expected a number or a list of numbers."),
    ],
)
def test_values_that_do_not_fit(load: Load, line: str, message: str) -> None:
    (found,) = mistakes(load, line)
    assert message in found


def test_references_stand_for_other_options(load: Load) -> None:
    loaded = load(
        'output_name = "${trigger_word}_r${network_dim}"\noutput_dir = "out/${output_name}"\nnetwork_dim = 16\n'
        'network_alpha = "${network_dim}"\ntrigger_word = "alex"\ncaption_prefix = "${not_a_key} $ { ${"\n'
        'network_args = ["conv_dim=${network_dim}"]\nunet_lr = "${learning_rate}"\n'
    ).config
    assert loaded.saving.output_dir == "out/alex_r16"
    assert loaded.network.network_alpha == 16.0
    assert loaded.captions.caption_prefix == "${not_a_key} $ { ${"
    assert loaded.network.network_args == {"conv_dim": "16"}
    assert loaded.optimizer.unet_lr == loaded.optimizer.learning_rate == 2e-6


@pytest.mark.parametrize("line", ['training_comment = "???"', 'network_args = ["a=???"]'])
def test_text_that_omegaconf_reads_as_missing_is_refused(load: Load, line: str) -> None:
    (message,) = mistakes(load, line)
    assert "expected text other than ???" in message


def test_references_in_a_circle_are_an_error(load: Load) -> None:
    messages = mistakes(load, 'output_name = "${output_dir}"\noutput_dir = "${output_name}"\n')
    assert len(messages) == 2
    assert "my.toml:1: output_name" in messages[0] and "in a circle" in messages[0]


def test_an_option_that_follows_from_another(load: Load) -> None:
    loaded = load("cache_latents_to_disk = true\n")
    assert loaded.config.data.cache_latents
    assert loaded.sources["cache_latents"] == "follows from cache_latents_to_disk"


# ---------------------------------------------------------------- names


def test_other_spellings_of_names(load: Load) -> None:
    loaded = load(
        'use_8bit_adam = true\ncaption_extention = ".txt"\nbatch_size = 3\nmem_eff_attn = true\nxformers = false\n'
    )
    assert loaded.config.optimizer.optimizer_type == "AdamW8bit"
    assert loaded.config.captions.caption_extension == ".txt"
    assert loaded.config.buckets.train_batch_size == 3
    assert loaded.config.model.attention == "sdpa"
    assert load("use_lion_optimizer = true").config.optimizer.optimizer_type == "Lion"
    assert load("sdpa = true", "--no-sdpa").config.model.attention == "sdpa"


def test_flags_that_disagree_with_their_option(load: Load) -> None:
    (message,) = mistakes(load, 'use_8bit_adam = true\noptimizer_type = "Lion"\n')
    assert '\'optimizer_type\' is set again, to "Lion"; it is "AdamW8bit" at my.toml:1' in message


def test_unknown_keys_are_named_with_line_and_suggestion(load: Load) -> None:
    messages = mistakes(
        load, "[a]\nnetwork_dimm = 4\n\n[b]\nnum_repeats = 3\nqqq = 1\n[b.c]\nx = 1\n", "--lerning_rate", "1"
    )
    assert messages == [
        "my.toml:2: unknown key 'network_dimm'. Did you mean 'network_dim'?",
        "my.toml:5: 'num_repeats' belongs in the dataset tables: [general], [[datasets]] or [[datasets.subsets]].",
        "my.toml:6: unknown key 'qqq'.",
        "my.toml:4: unknown table 'c'. Sections are one level deep.",
        "command line: unknown key 'lerning_rate'. Did you mean 'learning_rate'?",
    ]


def test_unknown_keys_may_be_let_pass_with_a_warning(load: Load) -> None:
    loaded = load('unknown_keys = "warn"\nnetwork_dimm = 4\n', "--bogus", "1", "2")
    assert loaded.warnings == [
        "my.toml:2: unknown key 'network_dimm'. Did you mean 'network_dim'? It was ignored.",
        "command line: unknown key 'bogus'. It was ignored.",
    ]


def test_keys_of_the_gui_and_keys_without_effect_warn(load: Load) -> None:
    loaded = load(
        'epoch = 4\nLoRA_type = "Standard"\nlowram = true\nfull_bf16 = false\nsave_model_as = "safetensors"\n'
    )
    assert len(loaded.warnings) == 3
    assert "'epoch' is written by kohya's GUI" in loaded.warnings[0]
    assert "'lowram' has no effect" in loaded.warnings[2]


@pytest.mark.parametrize("value", ["wandb", "all"])
def test_tensorboard_stands_in_for_other_logs(load: Load, value: str) -> None:
    loaded = load(f'log_with = "{value}"\n')
    assert loaded.config.logging.log_with == "tensorboard"
    (warning,) = loaded.warnings
    assert f'log_with = "{value}" is "tensorboard" here' in warning and "wandb sync" in warning


@pytest.mark.parametrize("value", ["ckpt", "pt"])
def test_files_are_safetensors_whatever_was_asked_for(load: Load, value: str) -> None:
    (warning,) = load(f'save_model_as = "{value}"\n').warnings
    assert f'save_model_as = "{value}" is "safetensors" here: a pickle can run a program' in warning


def test_a_way_to_save_memory_that_is_not_here_stops_no_run(load: Load) -> None:
    (warning,) = load("cpu_offload_checkpointing = true\n").warnings
    assert "'cpu_offload_checkpointing' has no effect: it changes no number" in warning


def test_keys_that_are_not_offered_are_errors(load: Load) -> None:
    messages = mistakes(
        load,
        'deepspeed = true\nsave_model_as = "pth"\ninitial_step = 100\noutput_config = false\ntrain_text_encoder = true\n',
    )
    assert len(messages) == 4
    assert "text encoders are trained unless network_train_unet_only is set" in messages[3]
    assert "'deepspeed' is not offered: a LoRA's optimizer is small; several processes" in messages[0]
    assert 'only "safetensors" is offered: a pickle' in messages[1]
    (message,) = mistakes(load, 'timestep_sampling = "sigmoid"\n')
    assert "other families" in message


def test_values_of_refused_keys_that_ask_for_nothing(load: Load) -> None:
    assert load("initial_epoch = 1\ninitial_step = 0\ndebug_dataset = false\n").warnings == []


def test_of_two_names_for_one_option_the_one_counts_that_sd_scripts_goes_by(load: Load) -> None:
    loaded = load('lr_scheduler_type = "torch.optim.lr_scheduler.StepLR"\nlr_scheduler = "cosine"\n')
    assert loaded.config.schedule.lr_scheduler == "torch.optim.lr_scheduler.StepLR"
    assert "'lr_scheduler' has no effect beside 'lr_scheduler_type'" in loaded.warnings[0]
    loaded = load('caption_extension = ".caption"\ncaption_extention = ".txt"\nsdpa = true\nmem_eff_attn = true\n')
    assert loaded.config.captions.caption_extension == ".txt"
    assert loaded.config.model.attention == "sdpa"
    assert len(mistakes(load, 'use_8bit_adam = true\noptimizer_type = "Lion"\n')) == 1
    assert len(mistakes(load, "use_8bit_adam = true\nuse_lion_optimizer = true\n")) == 1
    assert len(mistakes(load, 'xformers = true\nattention = "auto"\n')) == 1


def test_empty_text_for_what_a_gui_leaves_open(load: Load) -> None:
    loaded = load('optimizer_type = ""\nlr_scheduler_type = ""\nkeep_tokens_separator = ""\n', "--optimizer_type=")
    assert loaded.config.optimizer.optimizer_type == "AdamW"
    assert loaded.config.captions.keep_tokens_separator is None


def test_network_args_of_sd_scripts_that_change_nothing(load: Load) -> None:
    loaded = load('network_args = ["conv_dim=4", "verbose=True"]\n')
    assert loaded.config.network.network_args == {"conv_dim": "4"}
    assert "network_args: 'verbose' has no effect" in loaded.warnings[0]
    foreign = load('network_module = "library.config"\nnetwork_args = ["verbose=True"]\n')
    assert foreign.config.network.network_args == {"verbose": "True"}


def test_everything_wrong_is_told_at_once(folder: Path) -> None:
    Path("x.toml").write_text(
        'network_dimm = 4\nlearning_rate = "fast"\nmin_timestep = 9\nmax_timestep = 3\ntrain_data_dir = "nowhere"\n',
        encoding="utf-8",
    )
    with pytest.raises(UserErrors) as error:
        load_config(["--config", "x", "--seed", "x", "--bogus"])
    text = str(error.value)
    assert text.startswith("7 problems:\n  1. ")
    for part in (
        "x.toml:1: unknown key 'network_dimm'",
        'x.toml:2: learning_rate = "fast"',
        "command line: seed",
        "command line: unknown key 'bogus'",
        "min_timestep 9 must be below max_timestep 3",
        'train_data_dir = "nowhere"',
        "pretrained_model_name_or_path is missing",
    ):
        assert part in text


# ---------------------------------------------------------------- the demo


def test_a_run_that_names_nothing_takes_the_embedded_demo(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("x.toml").write_text("resolution = 768\nnetwork_dim = 99\nseed = 8\n", encoding="utf-8")
    loaded = load_config(["--config", "x", "--network_dim", "3"])
    assert loaded.config.buckets.resolution == [64, 64]
    assert loaded.sources["resolution"].startswith("presets/demo.toml:")
    assert (loaded.config.network.network_dim, loaded.config.training.seed) == (3, 8)
    assert Path(loaded.config.model.pretrained_model_name_or_path) == PROJECT_ROOT / "demo" / "model"
    assert Path(str(loaded.config.data.train_data_dir)).is_dir()
    (notice,) = loaded.notices
    assert "presets/demo.toml is laid over" in notice and "network_dim" in notice


@pytest.mark.parametrize(
    ("argv", "missing"),
    [
        (["--train_data_dir", "pictures"], "pretrained_model_name_or_path is missing"),
        (["--pretrained_model_name_or_path", "model.safetensors"], "train_data_dir is missing"),
    ],
)
def test_model_without_data_or_data_without_model_is_an_error(folder: Path, argv: list[str], missing: str) -> None:
    with pytest.raises(UserError) as error:
        load_config(argv)
    assert missing in str(error.value)


def test_a_recipe_without_trigger_word_leaves_prior_prediction_out(load: Load, folder: Path) -> None:
    loaded = load('extends = ["character"]')
    assert loaded.config.loss.prior_prediction_rate == 0
    assert any("needs trigger_word" in warning for warning in loaded.warnings)
    assert load('extends = ["character"]\ntrigger_word = "alex"').config.loss.prior_prediction_rate > 0
    (message,) = mistakes(load, "prior_prediction_rate = 0.2")
    assert "prior_prediction_rate needs trigger_word" in message


# ---------------------------------------------------------------- explain and help


def test_explain_shows_values_with_sources_and_ends(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load("network_dim = 8\nepoch = 1\n", "--explain")
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("warning: my.toml:2: 'epoch'") for line in lines)
    assert any(line.split() == ["*", "network_dim", "=", "8", "my.toml:1"] for line in lines)
    assert any(line.split() == ["network_alpha", "=", "1", "default"] for line in lines)
    with pytest.raises(SystemExit):
        load("", "--explain", "learning_rate")
    assert "network_dim" not in capsys.readouterr().out


def test_explain_shows_the_demo(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_config(["--config", "character", "--explain"])
    out = capsys.readouterr().out
    assert "note: neither a base model nor training data is named" in out
    assert "presets/demo.toml:" in out


def test_help_is_grouped_and_can_be_searched(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load_config(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "[network]" in out and "--network_dim  (whole number, default 4)" in out and "memory/8gb" in out
    with pytest.raises(SystemExit):
        load_config(["--help", "warmup"])
    out = capsys.readouterr().out
    assert "--lr_warmup_steps" in out and "--network_dim" not in out
    with pytest.raises(SystemExit):
        load_config(["-h", "qqq"])
    assert "No option" in capsys.readouterr().out


# ---------------------------------------------------------------- a whole config from elsewhere

FROM_THE_GUI = """
bucket_no_upscale = true
bucket_reso_steps = 64
cache_latents = true
caption_extension = ".txt"
clip_skip = 1
dynamo_backend = "no"
enable_bucket = true
epoch = 10
gradient_accumulation_steps = 1
huber_c = 0.1
huber_schedule = "snr"
learning_rate = 0.0001
logging_dir = "log"
loss_type = "l2"
lr_scheduler = "cosine"
lr_scheduler_args = []
lr_scheduler_num_cycles = 1
lr_scheduler_power = 1
lr_warmup_steps = 160
max_bucket_reso = 2048
max_data_loader_n_workers = 0
max_grad_norm = 1
max_timestep = 1000
max_token_length = 75
max_train_steps = 1600
mem_eff_attn = true
min_bucket_reso = 256
mixed_precision = "fp16"
multires_noise_discount = 0.3
network_alpha = 16
network_args = ["conv_dim=8", "conv_alpha=4"]
network_dim = 32
network_module = "networks.lora"
noise_offset_type = "Original"
optimizer_args = []
optimizer_type = "Adafactor"
output_dir = "out"
output_name = "last"
pretrained_model_name_or_path = "model.safetensors"
prior_loss_weight = 1
resolution = "512,512"
sample_sampler = "euler_a"
save_every_n_epochs = 1
save_model_as = "safetensors"
save_precision = "fp16"
text_encoder_lr = 0.0001
train_batch_size = 1
train_data_dir = "pictures"
unet_lr = 0.0001
wandb_run_name = "last"
"""


def test_a_file_of_kohyas_gui_runs_unchanged(folder: Path) -> None:
    Path("gui.toml").write_text(FROM_THE_GUI, encoding="utf-8")
    loaded = load_config(["--config_file", "gui.toml"])
    foreign = ["'epoch'", "'noise_offset_type'", "'wandb_run_name'"]
    for named, warning in zip([*foreign, "max_bucket_reso has", "sample_sampler has"], loaded.warnings, strict=True):
        assert named in warning
    assert loaded.config.optimizer.optimizer_type == "AdaFactor"
    assert loaded.config.network.network_args == {"conv_dim": "8", "conv_alpha": "4"}
    assert loaded.config.schedule.lr_warmup_steps == 160
