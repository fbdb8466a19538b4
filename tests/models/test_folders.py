"""diffusers folders: variants, shards, and what is missing."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from library.core.errors import UserError
from library.models.checkpoint import component_files, read_component, read_folder
from library.models.location import locate, weight_files

PLAIN, HALF = "model.safetensors", "model.fp16.safetensors"
SHARDS = ["model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"]


@pytest.mark.parametrize(
    ("names", "prefer_half", "chosen"),
    [
        ([PLAIN, HALF, "model.bin"], False, [PLAIN]),
        ([PLAIN, HALF], True, [HALF]),
        ([HALF], False, [HALF]),
        ([PLAIN], True, [PLAIN]),
        ([PLAIN, *SHARDS], True, SHARDS),
        (["model.non_ema.safetensors", PLAIN], False, [PLAIN]),
        (["model.bin"], False, []),
        (
            ["diffusion_pytorch_model.safetensors", "sdxl_vae.safetensors"],
            False,
            ["diffusion_pytorch_model.safetensors"],
        ),
        (["own.safetensors"], False, ["own.safetensors"]),
    ],
)
def test_one_precision_of_the_weights_is_chosen(names, prefer_half, chosen):
    assert weight_files(names, prefer_half) == chosen


@pytest.fixture
def sharded(tiny, tmp_path):
    """The tiny UNet in two shards with their index."""
    source = tiny("sd15", "folder") / "unet"
    tensors = load_file(source / "diffusion_pytorch_model.safetensors")
    names = sorted(tensors)
    halves = {1: names[::2], 2: names[1::2]}
    index = {}
    for number, part in halves.items():
        file = f"diffusion_pytorch_model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, tmp_path / file)
        index |= dict.fromkeys(part, file)
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"weight_map": index}), encoding="utf-8"
    )
    shutil.copy(source / "config.json", tmp_path)
    return tmp_path


def test_shards_are_read_together(sharded, tiny):
    whole = read_component(tiny("sd15", "folder") / "unet")
    assert {stored.key for stored in read_component(sharded).weights} == {stored.key for stored in whole.weights}


def test_a_missing_shard_is_named(sharded):
    (sharded / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="lacks diffusion_pytorch_model-00002-of-00002"):
        component_files(sharded, prefer_half=False)


def test_only_pickles_are_refused(tmp_path):
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"alone, which can run any program.*Take the \.safetensors version"):
        component_files(tmp_path, prefer_half=False)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"block_out_channels": [4] * 10_000}, "gives 10000 values of block_out_channels"),
        ({"down_block_types": [["x"] * 10_000]}, "gives 10000 values of down_block_types"),
        ({"layers_per_block": 1e9}, "says layers_per_block = 1000000000.0"),
        ({"block_out_channels": [32, 1e9]}, "says block_out_channels = 1000000000.0"),
        ({"layers_per_block": [1, 10**9]}, "says layers_per_block = 1000000000,"),
    ],
)
def test_settings_that_ask_for_modules_without_end_are_told(sharded, setting, told):
    file = sharded / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | setting), encoding="utf-8")
    with pytest.raises(UserError, match=told):
        read_component(sharded)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda path: (path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}', encoding="utf-8"),
            "of the kind FluxPipeline. Known families",
        ),
        (
            lambda path: save_file({"x": torch.zeros(1)}, path / "model.safetensors"),
            "Give one of the files: model.safetensors",
        ),
        (lambda path: None, "no folder 'unet'"),
    ],
)
def test_a_folder_that_is_no_model_is_explained(tmp_path, make, told):
    make(tmp_path)
    with pytest.raises(UserError, match=told):
        read_folder(tmp_path)


def test_text_encoder_files_with_the_old_level_load(tiny, tmp_path, load):
    """transformers 4 wrote `text_model.` before every name of a CLIPTextModel, transformers 5 may not."""
    ids = {"ids": torch.tensor([[[49406, 5, 6, *[49407] * 74]]])}
    results = []
    for with_level in (True, False):
        folder = tmp_path / str(with_level)
        shutil.copytree(tiny("sd15", "folder"), folder)
        file = folder / "text_encoder" / "model.safetensors"
        bare = {name.removeprefix("text_model."): value for name, value in load_file(file).items()}
        save_file({("text_model." if with_level else "") + name: value for name, value in bare.items()}, file)
        results.append(load(folder).encode_tokens(ids)["hidden"])
    assert torch.equal(*results)


def test_a_path_that_does_not_exist_suggests_its_neighbour(tmp_path):
    (tmp_path / "dreamy.safetensors").touch()
    with pytest.raises(UserError, match=r"no file or folder .*Did you mean 'dreamy.safetensors'"):
        locate(str(tmp_path / "dreamey.safetensors"), "pretrained_model_name_or_path")


def test_a_hub_name_without_a_network_is_explained(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="the hub cannot be reached"):
        locate("some-author/some-model", "pretrained_model_name_or_path")


def test_a_model_in_the_hub_cache_is_found_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    snapshot = tmp_path / "models--some-author--some-model" / "snapshots" / "abc"
    (snapshot / "unet").mkdir(parents=True)
    (snapshot / "unet" / PLAIN).touch()
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("abc", encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert locate("some-author/some-model", "pretrained_model_name_or_path") == snapshot
