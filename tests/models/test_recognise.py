from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from library.config.schema.model import ModelConfig
from library.core.errors import UserError
from library.core.registry import MODEL_FAMILIES
from library.models.load import load_model


@pytest.mark.parametrize(
    ("family", "layout", "expected", "prediction"),
    [
        ("sd15", "folder", "sd1", "eps"),
        ("sd15", "file", "sd1", "eps"),
        ("sd2_v", "folder", "sd2", "v"),
        ("sd2_v", "file", "sd2", "eps"),  # the file cannot say
        ("sdxl", "folder", "sdxl", "eps"),
        ("sdxl", "file", "sdxl", "eps"),
    ],
)
def test_the_family_is_read_off_the_weights(tiny, load, family, layout, expected, prediction):
    model = load(tiny(family, layout))
    assert model.family == expected
    assert model.process.prediction == prediction


def test_lack_of_memory_is_not_taken_for_damage(tiny, load, monkeypatch):
    monkeypatch.setattr("library.models.load.recognise", lambda checkpoint: torch.empty(1 << 46))
    with pytest.raises(RuntimeError, match="memory"):
        load(tiny("sd15", "folder"))


def test_v_prediction_of_a_file_comes_from_the_config(tiny, load):
    model = load(tiny("sd2_v", "file"), v_parameterization=True)
    assert model.process.prediction == "v"
    assert model.latents.native_resolution == 768
    assert load(tiny("sd2_v", "file")).latents.native_resolution == 512


@pytest.mark.parametrize(
    ("family", "settings", "told"),
    [
        ("sd15", {"v2": True}, "v2 = true, but the weights are those of SD 1.x"),
        ("sdxl", {"v2": True}, "v2 = true, but the weights are those of SDXL"),
        ("sd2_v", {"v2": False}, "v2 = false, but the weights are those of SD 2.x"),
        ("sd15", {"model_family": "sdxl"}, "model_family = 'sdxl', but the weights are those of SD 1.x"),
        ("sdxl", {"model_family": "sd"}, "model_family = 'sd', but the weights are those of SDXL"),
        ("sd2_v", {"v_parameterization": False}, "says that it predicts v"),
        ("sd15", {"v_parameterization": True}, r"says that it predicts the noise \(eps\)"),
    ],
)
def test_contradictions_with_the_config_are_errors(tiny, load, family, settings, told):
    with pytest.raises(UserError, match=told):
        load(tiny(family, "folder"), **settings)


def test_several_contradictions_are_told_together(tiny, load):
    with pytest.raises(UserError, match=r"(?s)2 problems.*model_family.*v2"):
        load(tiny("sd15", "folder"), v2=True, model_family="sdxl")


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("sd15", {"model_family": "sd"}),
        ("sd2_v", {"model_family": "sd2", "v2": True, "v_parameterization": True}),
        ("sdxl", {"v2": False, "v_parameterization": False}),
    ],
)
def test_what_agrees_with_the_weights_is_accepted(tiny, load, family, settings):
    assert load(tiny(family, "folder"), **settings).latents.channels == 4


def test_a_refiner_is_refused(tiny, tmp_path, load):
    tensors = load_file(tiny("sdxl", "file"))
    kept = {key: value for key, value in tensors.items() if not key.startswith("conditioner.embedders.0.")}
    moved = {key.replace("embedders.1.", "embedders.0."): value for key, value in kept.items()}
    save_file(moved, tmp_path / "refiner.safetensors")
    with pytest.raises(UserError, match="refiner"):
        load(tmp_path / "refiner.safetensors")


def test_a_model_with_another_process_is_refused(tiny, tmp_path, load):
    save_file({**load_file(tiny("sdxl", "file")), "edm_mean": torch.zeros(4)}, tmp_path / "edm.safetensors")
    with pytest.raises(UserError, match="EDM"):
        load(tmp_path / "edm.safetensors")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prediction_type": "sample"}, "predicts 'sample'"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid'"),
    ],
)
def test_unknown_schedulers_are_refused(tiny, tmp_path, load, change, told):
    shutil.copytree(tiny("sd15", "folder"), tmp_path / "model")
    file = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(UserError, match=told):
        load(tmp_path / "model")


def test_a_family_of_ones_own_is_taken_at_its_word():
    class Mine:
        @staticmethod
        def load(config, dtype, device):
            return config.pretrained_model_name_or_path, dtype, device.type

    MODEL_FAMILIES.register("test_recognise.mine")(Mine)
    config = ModelConfig(pretrained_model_name_or_path="anything", model_family="test_recognise.mine")
    assert load_model(config, torch.bfloat16, torch.device("cpu")) == ("anything", torch.bfloat16, "cpu")
