"""Pickles: refused, or read without running anything that is in them."""

from __future__ import annotations

import codecs
import io
import os
import pickle
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from library.config.load import load_config
from library.config.schema import Config
from library.config.schema.data import DataConfig
from library.config.schema.model import ModelConfig
from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from library.lora_files.file import read_lora
from library.models.base import DiffusionModel
from library.models.load import load_model
from library.models.pickles import safetensors_of, without_pickles
from library.models.weights import read_header

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16)}


class Trap:
    """Unpickled by whoever runs what a pickle asks for, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def hostile(file: Path, mark: Path, how: str) -> None:
    """A pickle that makes a folder when it is opened carelessly."""
    content = {"state_dict": TENSORS, "callbacks": Trap(mark)}
    if how == "plain":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=how == "zip")


def allowing(path: Path, caches: Path, **others: Any) -> Config:
    model = ModelConfig(pretrained_model_name_or_path=str(path), allow_pickle=True, **others)
    return replace(Config(), model=model, data=DataConfig(cache_dir=str(caches)))


@pytest.mark.parametrize("how", ["zip", "legacy", "plain"])
def test_a_hostile_pickle_runs_nothing(tmp_path: Path, how: str) -> None:
    file, mark = tmp_path / "model.ckpt", tmp_path / "mark"
    hostile(file, mark, how)
    for read in (
        lambda: read_header(file),
        lambda: read_lora(file),
        lambda: load_model(ModelConfig(pretrained_model_name_or_path=str(file)), torch.float32, torch.device("cpu")),
    ):
        with pytest.raises(UserError, match=r"allow_pickle = true.*only where you trust"):
            read()
    told = (
        "is none of theirs|not a readable PyTorch"
        if how == "plain"
        else r"mkdir\), and reading that could run a program"
    )
    with pytest.raises(UserError, match=told):
        without_pickles(allowing(file, tmp_path / "caches"))
    assert not mark.exists()
    assert not list((tmp_path / "caches").rglob("*.safetensors"))
    with suppress(Exception):
        torch.load(file, weights_only=False)
    assert mark.exists()  # whoever opens it carelessly falls into the trap


class Filling:
    """Unpickled by PyTorch's reader for weights alone, it asks for more memory than any machine has."""

    def __init__(self, how: Callable[..., Any], *given: Any) -> None:
        self.how, self.given = how, given

    def __reduce__(self) -> Any:
        return self.how, self.given


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("filling", "named"),
    [
        (Filling(bytearray, 1 << 60), "bytearray"),
        (Filling(codecs.encode, "x", "hex"), r"_codecs\.encode"),
        (Filling(torch.Tensor, [1.0]), r"torch\.Tensor"),
        (Filling(Counter, torch.zeros(1)), r"collections\.Counter"),
    ],
)
def test_what_could_fill_the_memory_is_refused_before_it_is_read(
    tmp_path: Path, filling: Filling, named: str, zipped: bool
) -> None:
    file = tmp_path / "model.ckpt"
    torch.save({"state_dict": TENSORS, "x": filling}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=rf"holds more than weights \([\w.]*{named}\).*fill the memory"):
        safetensors_of(file, tmp_path / "caches")


def test_what_does_not_open_again_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_short(tensors: dict[str, torch.Tensor], path: Path) -> None:
        save_file(tensors, path)
        path.write_bytes(path.read_bytes()[:-1])

    torch.save(TENSORS, tmp_path / "model.pt")
    monkeypatch.setattr("library.models.pickles.save_file", cut_short)
    with pytest.raises(UserError, match=r"model\.pt' do not go into a safetensors file"):
        safetensors_of(tmp_path / "model.pt", tmp_path / "caches")
    assert not [path for path in (tmp_path / "caches").rglob("*") if path.is_file()]


def test_the_config_is_refused_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    Path("pictures/a.png").write_bytes(b"")
    for name in ("model.ckpt", "vae.pt", "lora.pt"):
        Path(name).write_bytes(b"")
    given = ["--pretrained_model_name_or_path=model.ckpt", "--train_data_dir=pictures", "--vae=vae.pt"]
    given += ["--network_weights=lora.pt", "--base_weights=lora.pt"]
    with pytest.raises(UserError, match=r"(?s)4 problems.*'model\.ckpt' is a pickle.*allow_pickle"):
        load_config(given)
    assert load_config([*given, "--allow_pickle"]).warnings == []


def test_allowing_what_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    Path("pictures/a.png").write_bytes(b"")
    Path("model.safetensors").write_bytes(b"")
    given = ["--pretrained_model_name_or_path=model.safetensors", "--train_data_dir=pictures", "--allow_pickle"]
    assert any("allow_pickle has no effect" in warning for warning in load_config(given).warnings)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_tensors_come_out_as_they_are(tmp_path: Path, zipped: bool, nested: bool) -> None:
    shared = torch.arange(10.0)
    tensors = {
        **TENSORS,
        "turned": shared.reshape(2, 5).t(),
        "same": shared,
        "part": shared[2:4],
        "bits": torch.ones(3).bfloat16(),
    }
    file = tmp_path / "model.pt"
    content = {"state_dict": tensors, "epoch": 3, "seen": {"a": [1, 2.5, "x"]}} if nested else tensors
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    found = load_file(safetensors_of(file, tmp_path / "caches"))
    assert found.keys() == tensors.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )


def test_what_the_original_trainer_left_does_no_harm(tmp_path: Path) -> None:
    """The published SD 1.x checkpoints name a class of PyTorch Lightning; here under its own name, without the package."""
    module = b"pytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n"
    buffer = io.BytesIO()
    torch.save({"state_dict": TENSORS, "callbacks": {"KEY": 1}}, buffer)
    file = tmp_path / "model.ckpt"
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(file, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                key = b"X\x03\x00\x00\x00KEY"
                assert data.count(key) == 1
                data = data.replace(key, b"c" + module)
            new.writestr(entry.filename, data)
    assert load_file(safetensors_of(file, tmp_path / "caches")).keys() == TENSORS.keys()


def test_the_file_is_made_once_and_again_for_other_content(tmp_path: Path) -> None:
    file, caches = tmp_path / "model.pt", tmp_path / "caches"
    torch.save(TENSORS, file)
    first = safetensors_of(file, caches)
    stat = first.stat()
    assert safetensors_of(file, caches) == first
    assert first.stat().st_mtime_ns == stat.st_mtime_ns
    torch.save({"a": torch.zeros(9)}, file)
    second = safetensors_of(file, caches)
    assert second != first
    assert load_file(second).keys() == {"a"}
    second.unlink()
    assert load_file(safetensors_of(file, caches)).keys() == {"a"}


def compressed(file: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1_000_000)}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda file: torch.save({"a": torch.zeros(1).expand(10**12)}, file), "claims 4,000,000,000,000 bytes"),
        (
            lambda file: torch.save({"a": torch.zeros(3).to_sparse()}, file),
            r"more than weights \(torch\._utils\._rebuild_sparse",
        ),
        (lambda file: torch.save({"a": torch.zeros(3, device="meta")}, file), "more than weights"),
        (lambda file: torch.save({"a": torch.zeros(3, dtype=torch.complex64)}, file), "in a form that is not read"),
        (
            lambda file: torch.save({"a": torch.zeros(3, dtype=torch.uint8).view(torch.bits8)}, file),
            "more than weights|in a form",
        ),
        (lambda file: torch.save({"__metadata__": torch.zeros(3)}, file), "by the name '__metadata__'"),
        (lambda file: torch.save({"a\0": torch.zeros(3)}, file), r"by the name 'a\\x00'"),
        (lambda file: torch.save({"a\ud800": torch.zeros(3)}, file), r"by the name 'a\\ud800'"),
        (lambda file: torch.save([1, 2], file), "holds no tensors"),
        (lambda file: torch.save({"state_dict": 3}, file), "holds no tensors"),
        (lambda file: torch.save(torch.zeros(3), file), "holds no tensors"),
        (compressed, "is compressed"),
        (lambda file: file.write_bytes(b""), "not a readable PyTorch file"),
        (lambda file: file.write_bytes(b"<html>"), "not a readable PyTorch file"),
        (lambda file: save_file(TENSORS, file), "not a readable PyTorch file"),
    ],
)
def test_what_is_no_model_is_told(tmp_path: Path, make: Callable[[Path], Any], told: str) -> None:
    file = tmp_path / "model.pt"
    make(file)
    with pytest.raises(UserError, match=told):
        safetensors_of(file, tmp_path / "caches")


@pytest.mark.parametrize("cut", [0.2, 0.9])
def test_a_file_cut_short(tmp_path: Path, cut: float) -> None:
    file = tmp_path / "model.ckpt"
    torch.save(TENSORS, file)
    file.write_bytes(file.read_bytes()[: int(cut * file.stat().st_size)])
    with pytest.raises(UserError, match=r"model\.ckpt"):
        safetensors_of(file, tmp_path / "caches")


def test_a_checkpoint_is_the_same_model_in_either_form(
    tiny: Callable[[str, str], Path], load: Callable[..., DiffusionModel], tmp_path: Path
) -> None:
    whole = tiny("sd15", "file")
    tensors = load_file(whole)
    torch.save({"state_dict": tensors, "global_step": 1}, tmp_path / "model.ckpt")
    vae = {name.removeprefix("first_stage_model."): each for name, each in tensors.items() if name.startswith("first_")}
    torch.save(vae, tmp_path / "vae.pt")
    config = without_pickles(allowing(tmp_path / "model.ckpt", tmp_path / "caches", vae=str(tmp_path / "vae.pt")))
    pickled = load_model(config.model, torch.float32, torch.device("cpu"))
    plain = load(whole)
    for name, host in plain.hosts(["unet", "text_encoders"]).items():
        other = pickled.hosts(["unet", "text_encoders"])[name].state_dict()
        assert all(torch.equal(tensor, other[key]) for key, tensor in host.state_dict().items())
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.equal(plain.encode_images(pixels).mean, pickled.encode_images(pixels).mean)
    assert config.model.pretrained_model_name_or_path.startswith(str(tmp_path / "caches" / "pickles"))


def test_loras_are_read_too_and_nothing_else_is_changed(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "lora.pt")
    config = replace(
        allowing(tmp_path / "model.safetensors", tmp_path / "caches"),
        network=NetworkConfig(
            network_weights=str(tmp_path / "lora.pt"), base_weights=[str(tmp_path / "lora.pt"), "b.safetensors"]
        ),
    )
    found = without_pickles(config)
    assert read_lora(Path(str(found.network.network_weights)))[0].keys() == TENSORS.keys()
    assert found.network.base_weights == [found.network.network_weights, "b.safetensors"]
    assert found.model == config.model
    forbidden = replace(config, model=replace(config.model, allow_pickle=False))
    assert without_pickles(forbidden) is forbidden
