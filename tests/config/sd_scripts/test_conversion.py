from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from library.config.build import held, implied_values, typed_values
from library.config.findings import Findings
from library.config.load import load_config
from library.config.places import PROJECT_ROOT
from library.config.resolved import as_flat_dict
from library.config.schema import Config
from library.config.sd_scripts.conversion import Conversion, convert_source, missing_parts
from library.config.sd_scripts.preset_text import preset_text
from library.config.settings import choose_settings
from library.config.toml_files import read_settings
from library.core.errors import UserError

GOLDEN = PROJECT_ROOT / "tests" / "golden" / "sd_scripts"
SOURCES = sorted(
    path for path in GOLDEN.iterdir() if path.suffixes in ([".toml"], [".txt"], [".json"]) and path.name[:2].isdigit()
)

EASY = """
[[subsets]]
num_repeats = 10
shuffle_caption = true
image_dir = "F:/data/10_a"
name = "main"
[noise_args]
[general_args.args]
pretrained_model_name_or_path = "F:/nai.safetensors"
max_train_epochs = 2
[general_args.dataset_args]
resolution = 768
batch_size = 2
max_token_length = 225
[network_args.args]
network_dim = 8
[network_args.args.network_args]
conv_dim = 4
{more}
[optimizer_args.args]
warmup_ratio = 0.05
[optimizer_args.args.optimizer_args]
betas = "0.9,0.99"
[saving_args.args]
tag_occurrence = true
[bucket_args.dataset_args]
enable_bucket = true
"""


def read_back(text: str, folder: Path) -> Config:
    """The configuration that a preset comes to, wherever what it names may be."""
    path = folder / "read_back.toml"
    path.write_text(text, encoding="utf-8")
    findings = Findings()
    values = typed_values(choose_settings(read_settings(path), findings), findings)
    assert findings == Findings() and implied_values(values) == {}
    return held(values)


def kohya(folder: Path, **values: Any) -> Conversion:
    path = folder / "preset.json"
    path.write_text(json.dumps({"LoRA_type": "Standard", "optimizer": "AdamW8bit", **values}), encoding="utf-8")
    return convert_source(str(path))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_the_preset_of_a_config_comes_to_the_same(source: Path, tmp_path: Path) -> None:
    conversion = convert_source(str(source))
    assert conversion.left_out == []
    assert read_back(preset_text(conversion.config, ["a line"]), tmp_path) == conversion.config


def test_a_preset_is_loaded_as_the_config_it_came_from(folder: Path) -> None:
    """By the way that a run takes, for both."""
    Path("old.toml").write_text(
        'pretrained_model_name_or_path = "model.safetensors"\ntrain_data_dir = "pictures"\nxformers = true\n'
        'network_args = ["conv_dim=4", "verbose=True"]\noptimizer_args = ["weight_decay=0.1", "betas=0.9,0.99"]\n'
        'cache_latents_to_disk = true\ncaption_prefix = "a \\"b\\" \\\\ ${seed}"\nlr_warmup_steps = "10%"\n',
        encoding="utf-8",
    )
    conversion = convert_source("old.toml")
    Path("new.toml").write_text(preset_text(conversion.config), encoding="utf-8")
    old, new = (as_flat_dict(load_config(["--config", name]).config) for name in ("old.toml", "new.toml"))
    assert old.pop("network_args") == {"conv_dim": "4"} and new.pop("network_args") == {"conv_dim": 4}
    assert old.pop("optimizer_args") == {"weight_decay": "0.1", "betas": "0.9,0.99"}
    assert new.pop("optimizer_args") == {"weight_decay": 0.1, "betas": "0.9,0.99"}
    assert old == new


def test_an_option_is_explained_by_a_whole_sentence() -> None:
    text = preset_text(convert_source("train_network.py --min_snr_gamma=5").config)
    assert "# Weigh timesteps by min(snr, gamma)/snr (Hang et al. 2023); 5 is usual.\nmin_snr_gamma = 5.0\n" in text


def test_a_command_line_lies_over_its_config_file(folder: Path) -> None:
    Path("base.toml").write_text("network_dim = 8\nseed = 1\n", encoding="utf-8")
    conversion = convert_source("accelerate launch sdxl_train_network.py --config_file=base --seed=2 --sdpa")
    config = conversion.config
    assert (config.network.network_dim, config.training.seed, config.model.attention) == (8, 2, "sdpa")
    assert conversion.launcher == ["accelerate", "launch"]
    assert conversion.renamed == ['sdpa is attention = "sdpa"']
    assert "sdxl_train_network.py is train_network.py here" in conversion.told[0]
    assert [part.split()[0] for part in missing_parts(config)] == ["pretrained_model_name_or_path", "train_data_dir"]
    (told,) = convert_source("train_network.py --config_file elsewhere").told
    assert "this file is not here" in told


def test_what_is_refused_or_unknown_is_told_and_left_out(tmp_path: Path) -> None:
    conversion = convert_source(
        "train_network.py --deepspeed --learning_rate=fast --blah=1 --lowram --masked_loss --seed=3"
    )
    assert [text.split("'")[1] for text in conversion.left_out if "'" in text][-1] == "blah"
    assert len(conversion.left_out) == 3 and any("learning_rate" in text for text in conversion.left_out)
    assert "lowram" in " ".join(conversion.told)
    assert "masked_loss has no masks" in conversion.to_mend[0]
    assert read_back(preset_text(conversion.config), tmp_path).training.seed == 3


def test_what_every_run_would_only_warn_of_is_told_and_left_out(tmp_path: Path) -> None:
    conversion = convert_source(
        "train_network.py --persistent_data_loader_workers --cpu_offload_checkpointing --seed=3"
    )
    told = " ".join(conversion.told)
    assert "persistent_data_loader_workers has no effect" in told and "cpu_offload_checkpointing" in told
    text = preset_text(conversion.config)
    assert "persistent" not in text and "offload" not in text
    assert read_back(text, tmp_path).training.seed == 3


def test_a_preset_of_kohyas_gui(tmp_path: Path) -> None:
    found = kohya(
        tmp_path, LoRA_type="Kohya LoCon", conv_dim=8, conv_alpha=4, unit=1, max_resolution="1024,1024", epoch=20, lr_warmup=10,
        lr_scheduler="cosine", unet_lr=1e-4, text_encoder_lr=0, noise_offset=0.05, noise_offset_type="Multires", seed="0",
        multires_noise_iterations=8, sdxl=False, sdxl_no_half_vae=True, xformers="sdpa", keep_tokens="0", clip_skip="2",
        additional_parameters="--max_grad_norm=0 --min_snr_gamma=5", optimizer_args="weight_decay=0.1", headless=True,
    )  # fmt: skip
    config = found.config
    assert config.network.network_module == "networks.lora"
    assert config.network.network_args == {"conv_dim": 8, "conv_alpha": 4}
    assert config.network.network_train_unet_only
    assert config.buckets.resolution == [1024, 1024]
    assert (
        config.training.max_train_epochs == 20 and config.training.seed is None and config.training.max_grad_norm == 0
    )
    assert config.schedule.lr_warmup_steps == 0.1
    assert config.noise.noise_offset is None and config.noise.multires_noise_iterations == 8
    assert not config.model.no_half_vae and config.model.attention == "sdpa" and config.model.clip_skip == 2
    assert config.loss.min_snr_gamma == 5 and config.optimizer.optimizer_args == {"weight_decay": 0.1}
    assert found.left_out == [] and any("headless" in text for text in found.told)


def test_networks_of_kohyas_gui(tmp_path: Path) -> None:
    lokr = kohya(tmp_path, LoRA_type="LyCORIS/LoKr", LyCORIS_preset="attn-mlp", factor=8, conv_dim=4, use_tucker=True)
    assert lokr.config.network.network_module == "lycoris.kohya"
    assert lokr.config.network.network_args == {"algo": "lokr", "preset": "attn-mlp", "conv_dim": 4, "factor": 8}
    dylora = kohya(tmp_path, LoRA_type="LyCORIS/DyLoRA", unit=4).config.network.network_args
    assert dylora == {"algo": "dylora", "preset": "full", "block_size": 4}
    with pytest.raises(UserError, match="FLUX"):
        kohya(tmp_path, flux1_checkbox=True)
    with pytest.raises(UserError, match="Flux1 OFT"):
        kohya(tmp_path, LoRA_type="Flux1 OFT")


@pytest.mark.parametrize(
    ("more", "module"),
    [("", "networks.lora"), ("unit = 2", "networks.dylora"), ('algo = "loha"', "lycoris.kohya")],
)
def test_a_file_of_easy_training_scripts(tmp_path: Path, more: str, module: str) -> None:
    path = tmp_path / "easy.toml"
    path.write_text(EASY.format(more=more), encoding="utf-8")
    found = convert_source(str(path))
    config = found.config
    assert config.network.network_module == module and config.network.network_args["conv_dim"] == 4
    assert config.optimizer.optimizer_args == {"betas": "0.9,0.99"} and config.schedule.lr_warmup_steps == 0.05
    (dataset,) = found.situation.datasets
    assert dataset.buckets.resolution == [768, 768] and dataset.buckets.train_batch_size == 2
    assert dataset.buckets.enable_bucket and dataset.subsets[0].num_repeats == 10
    assert config.model.max_token_length == 225 and found.left_out == []
    assert "tag_occurrence" in found.told[0]
    text = preset_text(config)
    assert text.index("\n[general]") < text.index("\n[[datasets]]")
    assert read_back(text, tmp_path) == config


def test_a_json_of_sd_scripts_keys(tmp_path: Path) -> None:
    path = tmp_path / "flat.json"
    path.write_text('{"network_dim": 8, "section": {"seed": 5}}', encoding="utf-8")
    config = convert_source(str(path)).config
    assert (config.network.network_dim, config.training.seed) == (8, 5)


@pytest.mark.parametrize("content", ["{", "[1]", "[[1]]"])
def test_files_of_no_use_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"x\.json"):
        convert_source(str(path))
    with pytest.raises(UserError, match="no such file"):
        convert_source("nowhere.toml")


def test_files_that_hold_nothing_or_too_much_are_refused(tmp_path: Path) -> None:
    empty, model = tmp_path / "empty.txt", tmp_path / "model.safetensors"
    empty.touch()
    model.write_bytes(b" " * (2**20 + 1))
    with pytest.raises(UserError, match=r"no call of train_network\.py"):
        convert_source(str(empty))
    with pytest.raises(UserError, match="larger than 1 MiB"):
        convert_source(str(model))
    with pytest.raises(UserError, match="larger than 1 MiB"):
        load_config(["--config", str(model.rename(tmp_path / "x.toml"))])
