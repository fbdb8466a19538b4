"""A run that is stopped at a step boundary and resumed ends with bitwise the same file as one that was not."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from itertools import combinations, product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from library.core.errors import UserError

STEPS = 9

COSINE = {"lr_scheduler": "cosine", "lr_warmup_steps": 0.2}
WITHOUT_LENGTH = {"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 2}

OPTIMIZERS = {
    "AdamW": {"optimizer_type": "AdamW"},
    "AdamW8bit": {"optimizer_type": "AdamW8bit", "network_dim": 32},
    "Prodigy": {"optimizer_type": "Prodigy", "learning_rate": 1.0, "mixed_precision": "bf16"},
    "AdamWScheduleFree": {"optimizer_type": "AdamWScheduleFree"},
}


@dataclass(frozen=True)
class Way:
    """How a run is stopped and goes on."""

    accumulation: int
    at_epochs_end: bool
    twice: bool
    """The resumed run is resumed again."""
    extended: bool
    """The first run is shorter, under a schedule that does not depend on its length."""
    workers: int
    optimizer: str

    def __str__(self) -> str:
        where = "end" if self.at_epochs_end else "mid"
        marks = [f"x{self.accumulation}", where, *["twice"] * self.twice, *["extended"] * self.extended]
        return "-".join([self.optimizer, *marks, f"{self.workers}workers"])


def all_ways() -> list[Way]:
    return [Way(*values) for values in product((1, 4), *[(False, True)] * 3, (0, 2), OPTIMIZERS)]


def pairs_of(ways: Iterable[Way]) -> set[tuple]:
    """Every two settings that come together in one of the ways."""
    return {pair for way in ways for pair in combinations(enumerate(astuple(way)), 2)}


def pairwise(ways: list[Way]) -> list[Way]:
    """A few of them with all pairs: always the one that has the most pairs that are still missing."""
    missing, chosen = pairs_of(ways), []
    while missing:
        chosen.append(max(ways, key=lambda way: len(missing & pairs_of([way]))))
        missing -= pairs_of(chosen[-1:])
    return chosen


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "way" in metafunc.fixturenames:
        whole = metafunc.config.getoption("--whole_matrix")
        metafunc.parametrize("way", all_ways() if whole else pairwise(all_ways()), ids=str)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "lora.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    assert any(value.abs().max() > 0 for name, value in first.items() if "lora_up" in name), "nothing was learned"
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


FEATURES = {
    "cached": {"cache_latents": True, "network_train_unet_only": True, "cache_text_encoder_outputs": True},
    "average": {"ema_decay": 0.9, "network_dropout": 0.3, "gradient_checkpointing": True},
    "prior": {"prior_prediction_rate": 0.5, "trigger_word": "hero", "class_word": "man"},
    "noises": {
        "noise_offset": 0.1,
        "ip_noise_gamma": 0.1,
        "shuffle_caption": True,
        "random_crop": True,
        "color_aug": True,
    },
}


@pytest.mark.parametrize("feature", FEATURES)
def test_resumed_equals_uninterrupted(train, feature: str) -> None:
    options = {**COSINE, "max_train_steps": STEPS, "save_state": True, **FEATURES[feature]}
    whole = train("whole", **options, save_every_n_steps=2)
    assert_same_weights(whole, train("resumed", **options, resume=whole / "lora-step00000002-state"))


def test_every_way_to_stop_and_go_on(train, way: Way) -> None:
    """The matrix of `Way`: pairwise, and whole with `--whole_matrix`."""
    options = {**OPTIMIZERS[way.optimizer], "max_data_loader_n_workers": way.workers, "save_state": True}
    options |= {"gradient_accumulation_steps": way.accumulation, "train_batch_size": 1 if way.accumulation > 1 else 2}
    options |= WITHOUT_LENGTH if way.extended else COSINE
    epoch = 4 if way.accumulation > 1 else 5
    stop = epoch if way.at_epochs_end else 2
    whole = train("whole", **options, max_train_steps=STEPS, save_every_n_steps=stop)
    state = whole / f"lora-step{stop:08d}-state"
    if way.extended:
        state = train("start", **options, max_train_steps=stop) / "lora-state"
    resumed = train("resumed", **options, max_train_steps=STEPS, save_every_n_steps=7, resume=state)
    assert_same_weights(whole, resumed)
    if way.twice:
        again = train("again", **options, max_train_steps=STEPS, resume=resumed / "lora-step00000007-state")
        assert_same_weights(whole, again)


def test_the_ways_in_the_usual_run_cover_every_pair() -> None:
    chosen, every = pairwise(all_ways()), all_ways()
    assert pairs_of(chosen) == pairs_of(every)
    assert len(chosen) < 13 < len(every) == 128


def test_longer_run_keeps_the_old_curve_and_says_so(train, capsys: pytest.CaptureFixture[str]) -> None:
    out = train("run", max_train_steps=4, lr_scheduler="cosine", save_state=True)
    before = tensors(out)
    train("run", max_train_steps=6, lr_scheduler="cosine", resume="latest")
    assert "keeps the curve of 4 steps" in capsys.readouterr().out
    for name, value in tensors(out).items():
        assert torch.equal(value, before[name]), "a cosine that has ended leaves the weights alone"
    train("run2", max_train_steps=6, lr_scheduler="cosine", resume=out / "lora-state", resume_with_new_schedule=True)
    assert "now follows the curve of 6 steps" in capsys.readouterr().out
    assert any(not torch.equal(value, before[name]) for name, value in tensors(out.parent / "run2").items())


def test_latest_passes_over_a_torn_state(train, capsys: pytest.CaptureFixture[str]) -> None:
    out = train("run", max_train_steps=6, save_every_n_steps=2, save_state=True)
    (out / "lora-state" / "network.safetensors").write_bytes(b"torn")
    train("run", max_train_steps=6, save_state=True, resume="latest")
    assert "resuming from" in (said := capsys.readouterr().out) and "lora-step00000004-state" in said


def test_latest_without_a_state_starts_anew(train) -> None:
    assert (train("run", max_train_steps=1, resume="latest") / "lora.safetensors").is_file()


def test_a_run_goes_on_with_other_settings_on_request_only(train) -> None:
    out = train("run", max_train_steps=2, save_state=True)
    changed = {"max_train_steps": 4, "learning_rate": 2e-2, "min_snr_gamma": 5, "resume": "latest"}
    with pytest.raises(
        UserError, match=r"learning_rate was 0\.01 and is now 0\.02.*min_snr_gamma.*resume_with_changes"
    ):
        train("run", **changed)
    train("run", **changed, resume_with_changes=True)
    assert out.is_dir()


def test_another_base_model_or_other_pictures_are_noticed(train, models, pictures: Path, tmp_path: Path) -> None:
    """The model is of the same kind and in the same place, a caption is one word longer."""
    model, data = tmp_path / "model", tmp_path / "data"
    shutil.copytree(models("sd15"), model)
    shutil.copytree(pictures, data)
    options = {"pretrained_model_name_or_path": model, "train_data_dir": data, "max_train_steps": 2}
    train("run", **options, save_state=True)
    resumed = {**options, "max_train_steps": 4, "resume": "latest"}
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    changed = load_file(weights)
    save_file({name: value * 1.5 for name, value in changed.items()}, weights)
    with pytest.raises(UserError, match="base model's weights are not those of the state"):
        train("run", **resumed)
    save_file(changed, weights)
    caption = next(data.rglob("1.txt"))
    caption.write_text(caption.read_text(encoding="utf-8") + ", sword", encoding="utf-8")
    with pytest.raises(UserError, match="captions"):
        train("run", **resumed)
    train("run", **resumed, resume_with_changes=True)


def test_another_network_cannot_be_resumed(train) -> None:
    out = train("run", max_train_steps=2, save_state=True)
    with pytest.raises(UserError, match="network_dim was 4 and is now 8"):
        train("run", max_train_steps=4, network_dim=8, resume=out / "lora-state")
    with pytest.raises(UserError, match="nothing is left to train"):
        train("run", max_train_steps=2, resume=out / "lora-state")


def test_the_lora_that_a_run_starts_from_must_be_the_same(train, tmp_path: Path) -> None:
    """LoRA's state holds all of it, LoRA-FA's only what learns; a file that has been replaced looks the same by its name."""
    file = tmp_path / "first.safetensors"
    plain = {"max_train_steps": 2, "save_state": True, "network_weights": file}
    frozen = {**plain, "network_module": "networks.lora_fa"}
    (train("first", max_train_steps=1) / "lora.safetensors").rename(file)
    whole = train("whole", **frozen, save_every_n_steps=1)
    state = whole / "lora-step00000001-state"
    assert_same_weights(whole, train("resumed", **frozen, resume=state))
    lora = train("lora", **plain)
    content = file.read_bytes()
    save_file({name: value * 2 for name, value in load_file(file).items()}, file)
    with pytest.raises(UserError, match="keeps a part of that file"):
        train("changed", **frozen, resume=state, resume_with_changes=True)
    longer = {**plain, "max_train_steps": 3, "resume": lora / "lora-state"}
    with pytest.raises(UserError, match=r"network_weights is not the file.*resume_with_changes"):
        train("lora_changed", **longer)
    train("lora_changed", **longer, resume_with_changes=True)
    file.unlink()
    with pytest.raises(UserError, match=r"network_weights = .*first\.safetensors\": no such file"):
        train("gone", **frozen, resume=state)
    file.write_bytes(content)
    assert_same_weights(whole, train("back", **frozen, resume=state))


def test_the_lora_that_is_merged_into_the_base_must_be_the_same(train, tmp_path: Path) -> None:
    """Also where the run itself has written over it."""
    out = train("run", max_train_steps=1)
    options = {"base_weights": [out / "lora.safetensors"], "save_state": True}
    merged = tmp_path / "base.safetensors"
    shutil.copy(out / "lora.safetensors", merged)
    train("run", **options, max_train_steps=2)
    resumed = {**options, "max_train_steps": 3, "resume": out / "lora-state"}
    with pytest.raises(UserError, match="base_weights are merged into them"):
        train("again", **resumed)
    shutil.copy(merged, out / "lora.safetensors")
    train("again", **resumed)
