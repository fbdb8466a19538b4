"""Base models: headers of single files, and the settings in the folders of diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from library.config.schema.model import ModelConfig
from library.core.errors import UserError
from library.models.load import load_model
from library.models.location import locate
from library.models.published import recipe
from library.models.random_weights import write_folder, write_single_file
from library.models.weights import read_header
from tests.fuzz.strategies import (
    PECULIAR,
    TEXT,
    VALUES,
    as_json,
    damaged,
    damaged_text,
    fuzzed,
    odd_header,
    outcome,
    safetensors,
)

SETTINGS = [
    "unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json", "model_index.json",
    "tokenizer/tokenizer_config.json", "tokenizer/tokenizer.json",
]  # fmt: skip


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The header of a tiny SD 1.5, and that of a tiny SDXL, by family."""
    folder, headers = tmp_path_factory.mktemp("single"), {}
    for family in ("sd15", "sdxl"):
        file = folder / f"{family}.safetensors"
        write_single_file(recipe(family, tiny=True), file)
        with file.open("rb") as stream:
            headers[family] = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return headers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("folders") / "model"
    write_folder(recipe("sd15", tiny=True), path)
    return path


def load(path: Path, named: str = "") -> Any:
    """The model, its modules and its tokenizer, or the error that names the model or what is `named`."""

    def loaded() -> Any:
        config = ModelConfig(pretrained_model_name_or_path=str(path))
        model = load_model(config, torch.float32, torch.device("cpu"))
        model.hosts(["unet", "text_encoders"])
        model.tokenize(["a knight"])
        model.encode_images(torch.zeros(1, 3, 32, 32))
        return model

    return outcome(loaded, named or path.name)


def write_sparse(path: Path, header: dict[str, Any] | bytes) -> Path:
    """A file with this header, and nothing but a hole where its tensors would be."""
    content = safetensors(header)
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    entries = [] if isinstance(header, bytes) else list(header.values())
    ends = [entry["data_offsets"][-1:] for entry in entries if isinstance(entry, dict) and "data_offsets" in entry]
    whole = [end for [end] in filter(None, ends) if isinstance(end, int) and 0 <= end < 1 << 30]
    with path.open("rb+") as stream:
        stream.truncate(len(content) + max(whole, default=0))
    return path


@fuzzed(12)
@given(data=st.data(), family=st.sampled_from(["sd15", "sdxl"]))
def test_odd_headers(data: st.DataObject, family: str, single: dict[str, Any], tmp_path: Path) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(single[family])), min_size=1, max_size=4, unique=True))
    chosen = data.draw(odd_header({name: single[family][name] for name in names}))
    kept = {name: entry for name, entry in single[family].items() if name not in names}
    load(write_sparse(tmp_path / "model.safetensors", laid_out({**kept, **chosen})))


def laid_out(header: dict[str, Any]) -> dict[str, Any]:
    """The header with its tensors one behind the other again, where they have sizes at all."""
    begin, placed = 0, {}
    for name, entry in header.items():
        placed[name] = entry
        if isinstance(entry, dict) and len(entry.get("data_offsets", ())) == 2:
            first, last = entry["data_offsets"]
            if isinstance(first, int) and isinstance(last, int) and 0 <= last - first < 1 << 30:
                placed[name] = {**entry, "data_offsets": [begin, begin + last - first]}
                begin += last - first
    return placed


@fuzzed(30)
@given(data=st.data())
def test_damaged_headers(data: st.DataObject, single: dict[str, Any], tmp_path: Path) -> None:
    names = sorted(single["sd15"])[:6]
    whole = safetensors({name: single["sd15"][name] for name in names})
    file = tmp_path / "part.safetensors"
    file.unlink(missing_ok=True)
    file.write_bytes(data.draw(damaged(whole)))
    outcome(lambda: read_header(file), "part.safetensors")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("cond_stage_model.transformer.text_model.encoder.layers.999999999.mlp.fc1.weight", [4, 4]),
        ("first_stage_model.decoder.up.999999999.block.0.conv1.weight", [4, 4, 3, 3]),
        ("first_stage_model.decoder.up.x.block.0.conv1.weight", [4, 4, 3, 3]),
        ("first_stage_model.decoder.mid.attn_9.q.weight", [4, 4, 1, 1]),
        ("model.diffusion_model.input_blocks.999999999.0.in_layers.0.weight", [4]),
        ("model.diffusion_model.input_blocks.0.0.weight", [4]),
        ("model.diffusion_model.input_blocks.0.0.weight", []),
        ("model.diffusion_model.input_blocks.0.0.weight", [2**62, 0]),
        ("model.diffusion_model.out.2.weight", []),
        ("model.diffusion_model.input_blocks." + "9" * 5000 + ".0.weight", [4]),
    ],
)
def test_one_odd_tensor_is_told(single: dict[str, Any], tmp_path: Path, name: str, shape: list[int]) -> None:
    size = 4
    for side in shape:
        size *= side
    header = {**single["sd15"], name: {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}
    assert isinstance(load(write_sparse(tmp_path / "model.safetensors", laid_out(header))), UserError)


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F6_E3M2"])
def test_weights_of_less_than_a_byte_are_refused(tmp_path: Path, dtype: str) -> None:
    size = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}[dtype]
    file = tmp_path / "a.safetensors"
    file.write_bytes(safetensors({"a": {"dtype": dtype, "shape": [8], "data_offsets": [0, size]}}, bytes(size)))
    with pytest.raises(UserError, match=f"weights in {dtype}"):
        read_header(file)


@fuzzed(30)
@given(data=st.data(), place=st.sampled_from(SETTINGS))
def test_odd_settings_in_a_folder(data: st.DataObject, place: str, folder: Path) -> None:
    file = folder / place
    before = file.read_text(encoding="utf-8")
    if len(before) > 20_000 or data.draw(st.booleans()):
        changed = data.draw(damaged_text(before))
    else:
        settings = json.loads(before)
        for key in data.draw(st.lists(st.sampled_from(sorted(settings)), min_size=1, max_size=2)):
            settings[key] = data.draw(VALUES | st.sampled_from([10**9, -1, 0, [10**9], [0, 0], "x", [], {}]))
        changed = as_json(settings)
    try:
        file.write_text(changed, encoding="utf-8", errors="surrogateescape")
        load(folder, "e" if "scheduler" in place else "")
    finally:
        file.write_text(before, encoding="utf-8")


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ("unet/config.json", "layers_per_block", 10**9),
        ("unet/config.json", "block_out_channels", [10**9]),
        ("unet/config.json", "in_channels", None),
        ("unet/config.json", "block_out_channels", 3),
        ("vae/config.json", "block_out_channels", []),
        ("text_encoder/config.json", "num_hidden_layers", 10**9),
        ("text_encoder/config.json", "max_position_embeddings", 10**10),
        ("text_encoder/config.json", "hidden_size", "wide"),
        ("scheduler/scheduler_config.json", "num_train_timesteps", 10**9),
        ("scheduler/scheduler_config.json", "beta_start", "low"),
        ("scheduler/scheduler_config.json", "trained_betas", "x"),
        ("scheduler/scheduler_config.json", "prediction_type", ["epsilon"]),
    ],
)
def test_one_odd_setting_is_told(folder: Path, place: str, key: str, value: Any) -> None:
    file = folder / place
    before = file.read_text(encoding="utf-8")
    try:
        file.write_text(as_json({**json.loads(before), key: value}))
        assert isinstance(load(folder, place.rpartition("/")[2] if key == "num_train_timesteps" else ""), UserError)
    finally:
        file.write_text(before, encoding="utf-8")


@fuzzed(40)
@given(TEXT.filter(lambda name: "\0" not in name))
@example("a--b/c")
@example("../x")
@example("a" * 5000)
@example("~nobody-of-that-name/x")
def test_any_name_of_a_model(name: str) -> None:
    if "/" not in name or name in PECULIAR:  # others may be names on the hub
        outcome(lambda: locate(name, "vae"))


def test_whole_models_load(folder: Path, single: dict[str, Any], tmp_path: Path) -> None:
    assert not isinstance(load(folder), UserError)
    assert not isinstance(load(write_sparse(tmp_path / "model.safetensors", single["sdxl"])), UserError)
