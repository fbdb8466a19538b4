"""What a run leaves behind, beside what sd-scripts leaves: names, metadata, hashes, TensorBoard tags."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from library.models.description import vae_entries

FACTS = tomllib.loads(
    (Path(__file__).resolve().parents[1] / "golden" / "sd_scripts_metadata.toml").read_text(encoding="utf-8")
)

NOT_WRITTEN = {
    "ss_sd_scripts_commit_hash": "the file is not sd-scripts' work",
    "ss_vae_hash": "of runs with a VAE of their own alone, as there",
    "ss_new_vae_hash": "of runs with a VAE of their own alone, as there",
    "ss_vae_name": "of runs with a VAE of their own alone, as there",
}

READS = {
    "whole": r"\d+",
    "number": r"-?\d+(\.\d+)?(e-?\d+)?",
    "numbers": r"\[.+\]",
    "truth": "True|False",
    "pair": r"\(\d+(\.\d+)?, \d+(\.\d+)?\)",
    "text": ".+",
    "json": r"[\[{].*[\]}]",
    "hash": "[0-9a-f]{64}",
    "short hash": "[0-9a-f]{8}",
}
"""How the text of each kind of entry reads."""


class Left(NamedTuple):
    """One run's folder, and the last LoRA's metadata."""

    folder: Path
    file: Path
    metadata: dict[str, str]


@pytest.fixture
def left(train: Callable[..., Path], models: Callable[..., Path], tmp_path: Path) -> Left:
    """A run of two epochs that saves, samples, validates and logs; its LoRA file is longer than the bytes of the legacy hash."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("hero --d 5 --s 1 --w 64 --h 64", encoding="utf-8")
    folder = train(
        pretrained_model_name_or_path=models("sd15", "single_file"),
        output_name="hero",
        max_train_steps=None,
        max_train_epochs=2,
        network_dim=32,
        network_args=["conv_dim=8", "conv_alpha=1"],
        unet_lr=1e-3,
        text_encoder_lr=[1e-4],
        lr_scheduler="constant_with_warmup",
        lr_warmup_steps=2,
        optimizer_args=["weight_decay=0.1"],
        scale_weight_norms=0.5,
        min_timestep=10,
        max_timestep=900,
        clip_skip=2,
        face_crop_aug_range="1.0,3.0",
        save_every_n_epochs=1,
        save_every_n_steps=3,
        save_state=True,
        validation_split=0.2,
        sample_prompts=prompts,
        sample_every_n_epochs=1,
        logging_dir=tmp_path / "logs",
        log_prefix="try_",
        training_comment="a remark",
        metadata_author="me",
    )
    with safe_open(folder / "hero.safetensors", framework="pt") as file:
        return Left(folder, folder / "hero.safetensors", file.metadata())


def test_a_run_leaves_the_same_files(left: Left) -> None:
    found = {path.name for path in left.folder.iterdir()}
    theirs = {
        "hero.safetensors",
        "hero-000001.safetensors",
        "hero-step00000003.safetensors",
        "hero-state",
        "hero-000001-state",
        "hero-step00000003-state",
        "sample",
    }
    assert theirs <= found
    assert "hero-000002.safetensors" not in found, "the last epoch is saved under the plain name alone"
    samples = sorted(path.name for path in (left.folder / "sample").iterdir())
    assert all(re.fullmatch(r"hero_e00000[12]_00_\d{14}_5\.png", name) for name in samples) and len(samples) == 2
    _metadata(left)
    _hashes(left)
    _tags(left)


def _metadata(left: Left) -> None:
    """Every entry of sd-scripts is there and reads alike; values are what the run was."""
    entries = left.metadata
    assert {key for key in FACTS if key not in entries} == NOT_WRITTEN.keys()
    for key, kind in FACTS.items():
        if key in entries:
            allowed = READS[kind.rstrip("?")] + ("|None" if kind.endswith("?") else "")
            assert re.fullmatch(allowed, entries[key]), (key, entries[key])
    assert {
        "ss_output_name": "hero",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "32",
        "ss_network_args": '{"conv_dim": "8", "conv_alpha": "1"}',
        "ss_resolution": "(64, 64)",
        "ss_face_crop_aug_range": "(1.0, 3.0)",
        "ss_lr_warmup_steps": "2",
        "ss_text_encoder_lr": "[0.0001]",
        "ss_num_epochs": "2",
        "ss_epoch": "2",
        "ss_clip_skip": "2",
        "ss_optimizer": "AdamW(weight_decay=0.1)",
        "ss_training_comment": "a remark",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": "hero",
        "modelspec.author": "me",
        "modelspec.resolution": "64x64",
        "modelspec.prediction_type": "epsilon",
        "modelspec.timestep_range": "10,900",
        "modelspec.encoder_layer": "2",
    }.items() <= entries.items()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", entries["modelspec.date"])
    tags = json.loads(entries["ss_tag_frequency"])
    assert list(tags) == ["1_hero man", "2_hero man"] and next(iter(tags["1_hero man"])) == "hero"
    assert json.loads(entries["ss_dataset_dirs"])["2_hero man"] == {"n_repeats": 2, "img_count": 1}
    buckets = json.loads(entries["ss_bucket_info"])
    assert all(bucket.keys() == {"resolution", "count"} for bucket in buckets["buckets"].values())
    assert "mean_img_ar_error" in buckets


def _hashes(left: Left) -> None:
    """Recomputed as readers do: from the bytes after the header, and from a file that carries the ss_* entries alone."""
    content = left.file.read_bytes()
    weights = content[8 + int.from_bytes(content[:8], "little") :]
    assert left.metadata["sshs_model_hash"] == hashlib.sha256(weights).hexdigest()
    assert left.metadata["modelspec.hash_sha256"] == f"0x{hashlib.sha256(weights).hexdigest()}"
    ours = {key: value for key, value in left.metadata.items() if key.startswith("ss_")}
    bare = save(load_file(left.file), ours)
    assert len(bare) > 0x110000
    assert left.metadata["sshs_legacy_hash"] == hashlib.sha256(bare[0x100000:0x110000]).hexdigest()[:8]


def _tags(left: Left) -> None:
    (events,) = (left.folder.parent / "logs").rglob("events.out.tfevents.*")
    assert events.parent.name == "network_train"
    assert re.fullmatch(r"try_\d{14}", events.parent.parent.name)
    tags = set(EventAccumulator(str(events.parent)).Reload().Tags()["scalars"])
    theirs = {
        "loss/current",
        "loss/average",
        "loss/epoch_average",
        "lr/unet",
        "lr/textencoder",
        "max_norm/keys_scaled",
        "max_norm/max_key_norm",
        "norm/avg_key_norm",
    }
    assert theirs <= tags
    assert {tag for tag in tags if tag.startswith("loss/validation/")}


def test_a_vae_of_its_own_is_named_with_its_hashes(tmp_path: Path) -> None:
    file = tmp_path / "kl.safetensors"
    file.write_bytes(bytes(range(256)) * 5000)
    content = file.read_bytes()
    assert vae_entries(str(file)) == {
        "ss_vae_name": "kl.safetensors",
        "ss_vae_hash": hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8],
        "ss_new_vae_hash": hashlib.sha256(content).hexdigest(),
    }


def test_a_file_of_sd_scripts_goes_on_as_it_is(train: Callable[..., Path], tmp_path: Path) -> None:
    """A step at no learning rate to speak of leaves its very change of the weights, with its ranks and with ranks that agree."""
    whole = load_file(train("first", network_dim=6, network_alpha=3, max_train_steps=1) / "lora.safetensors")
    draw = torch.Generator().manual_seed(0)
    theirs = {
        name: tensor.half() if name.endswith("alpha") else torch.randn(tensor.shape, generator=draw).half() * 0.01
        for name, tensor in whole.items()
    }
    save_file(theirs, tmp_path / "theirs.safetensors", {"ss_network_dim": "6", "ss_network_alpha": "3.0"})
    for name, sizes in {"its own ranks": {"dim_from_weights": True}, "the same ranks": {"network_dim": 6}}.items():
        asked = {"network_weights": tmp_path / "theirs.safetensors", "network_alpha": 1, **sizes}
        again = load_file(train(name, learning_rate=1e-30, max_train_steps=1, **asked) / "lora.safetensors")
        assert again.keys() == theirs.keys()
        for site in {name.partition(".")[0] for name in theirs}:
            torch.testing.assert_close(_change(again, site), _change(theirs, site), rtol=1e-5, atol=1e-9)


def _change(tensors: dict[str, torch.Tensor], site: str) -> torch.Tensor:
    """alpha / rank · up · down."""
    down, up = (tensors[f"{site}.lora_{side}.weight"].double().flatten(1) for side in ("down", "up"))
    return up @ down * (float(tensors[f"{site}.alpha"]) / down.shape[0])
