"""States come back whole, are found by their exact name, and allow only what their tensors allow."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from library.core.errors import UserError
from library.training.checkpoint import (
    FORMAT_VERSION,
    Position,
    changes_since,
    find_state,
    load_trainer,
    read_description,
    read_position,
    save_state,
)

CONFIG: dict[str, Any] = {
    "network_module": "networks.lora",
    "network_dim": 8,
    "network_args": {"conv_dim": 4},
    "optimizer_type": "AdamW",
    "learning_rate": 1e-4,
    "train_batch_size": 2,
    "seed": 7,
    "output_dir": "output",
    "max_train_steps": 100,
    "text_encoder_lr": None,
}
POSITION = Position(step=5, schedule_steps=100, seed=7, data="abc", config=CONFIG, started_at=1000.0)

NewTrainer = Callable[..., Any]


def bare_state(folder: Path, step: int, started_at: float = 1000.0) -> Path:
    """A state with nothing but its description."""
    folder.mkdir(parents=True)
    position = vars(replace(POSITION, step=step, started_at=started_at))
    description = {"format_version": FORMAT_VERSION, **position, "optimizer": {}, "loss_scale": {}, "files": {}}
    (folder / "state.json").write_text(json.dumps(description), encoding="utf-8")
    return folder


# --- a state is what was saved


@pytest.mark.parametrize("optimizer", ["AdamW", "AdamWScheduleFree"])
@pytest.mark.parametrize("ema", [False, True])
def test_a_resumed_trainer_goes_on_bitwise(
    new_trainer: NewTrainer, update: Callable, tmp_path: Path, ema: bool, optimizer: str
) -> None:
    straight, resumed = (new_trainer(value, ema=ema, optimizer=optimizer) for value in (0.5, -3.0))
    for step in range(4):
        update(straight, step)
    save_state(tmp_path / "run-state", straight, POSITION)
    load_trainer(tmp_path / "run-state", resumed)
    for step in range(4, 9):
        update(straight, step)
        update(resumed, step)
    assert torch.equal(resumed.groups[0].values, straight.groups[0].values)
    with resumed.evaluation(), straight.evaluation():
        assert torch.equal(resumed.groups[0].values, straight.groups[0].values)


def test_saving_a_state_changes_nothing(new_trainer: NewTrainer, update: Callable, tmp_path: Path) -> None:
    one, other = new_trainer(0.5, ema=True), new_trainer(0.5, ema=True)
    for step in range(6):
        update(one, step)
        update(other, step)
        save_state(tmp_path / "run-state", other, POSITION)
    assert torch.equal(one.groups[0].values, other.groups[0].values)


def test_the_loss_scale_is_part_of_the_state(new_trainer: NewTrainer, tmp_path: Path) -> None:
    trainer, resumed = new_trainer(fp16=True), new_trainer(fp16=True)
    trainer.loss_scale.update(torch.tensor(1.0))
    save_state(tmp_path / "run-state", trainer, POSITION)
    load_trainer(tmp_path / "run-state", resumed)
    assert resumed.loss_scale.state() == {"on": 1.0, "scale": 2.0**15, "good_steps": 0.0}


def test_the_position_comes_back(new_trainer: NewTrainer, tmp_path: Path) -> None:
    save_state(tmp_path / "run-state", new_trainer(), POSITION)
    assert read_position(tmp_path / "run-state") == POSITION
    assert find_state(str(tmp_path / "run-state"), tmp_path, "other") == tmp_path / "run-state"


def test_another_network_is_refused(new_trainer: NewTrainer, tmp_path: Path) -> None:
    save_state(tmp_path / "run-state", new_trainer(), POSITION)
    with pytest.raises(UserError, match="another network"):
        load_trainer(tmp_path / "run-state", new_trainer(size=600))


def test_another_optimizer_is_refused(new_trainer: NewTrainer, tmp_path: Path) -> None:
    save_state(tmp_path / "run-state", new_trainer(), POSITION)
    with pytest.raises(UserError, match="AdamW"):
        load_trainer(tmp_path / "run-state", new_trainer(optimizer="Lion"))


def test_an_average_cannot_be_made_up(new_trainer: NewTrainer, tmp_path: Path) -> None:
    save_state(tmp_path / "run-state", new_trainer(), POSITION)
    with pytest.raises(UserError, match="ema_decay"):
        load_trainer(tmp_path / "run-state", new_trainer(ema=True))


# --- damage is noticed


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


@pytest.mark.parametrize("damage", [Path.unlink, truncated])
@pytest.mark.parametrize("name", ["network.safetensors", "optimizer.safetensors", "average.safetensors"])
def test_a_torn_file_is_named(
    new_trainer: NewTrainer, update: Callable, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    trainer = new_trainer(ema=True)
    update(trainer, 0)
    save_state(tmp_path / "run-state", trainer, POSITION)
    damage(tmp_path / "run-state" / name)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        read_description(tmp_path / "run-state")


def test_what_is_no_state_is_refused(tmp_path: Path) -> None:
    for content in (None, "{", ""):
        if content is not None:
            (tmp_path / "state.json").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match="not a state"):
            find_state(str(tmp_path), tmp_path, "run")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    folder = bare_state(tmp_path / "run-state", 5)
    description = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    (folder / "state.json").write_text(json.dumps(description | {"format_version": 2}), encoding="utf-8")
    with pytest.raises(UserError, match="version 2"):
        read_description(folder)


# --- `latest`


def test_nothing_to_resume_is_no_mistake(tmp_path: Path) -> None:
    assert find_state("latest", tmp_path, "hero") is None
    assert find_state("latest", tmp_path / "not made yet", "hero") is None


@pytest.mark.parametrize("name", ["hero", "hero [v1] (final)", "hero.v2+", "hero-step"])
def test_the_furthest_state_of_a_run_is_found(tmp_path: Path, name: str) -> None:
    bare_state(tmp_path / f"{name}-000001-state", 10)
    bare_state(tmp_path / f"{name}-step00000030-state", 30)
    bare_state(tmp_path / f"{name}-000002-state", 20)
    assert find_state("latest", tmp_path, name) == tmp_path / f"{name}-step00000030-state"
    bare_state(tmp_path / f"{name}-state", 40)
    assert find_state("latest", tmp_path, name) == tmp_path / f"{name}-state"


@pytest.mark.parametrize(
    "neighbour",
    [
        "hero_v2-state",
        "hero-v2-state",
        "hero_v2-step00000500-state",
        "hero-v2-000010-state",
        "hero2-state",
        "my_hero-state",
        "hero-000010-state.bak",
        "hero-0000010-state",
        "hero-step500-state",
        "Xhero-state",
    ],
)
def test_a_neighbours_state_is_not_taken(tmp_path: Path, neighbour: str) -> None:
    bare_state(tmp_path / neighbour, 500)
    assert find_state("latest", tmp_path, "hero") is None
    mine = bare_state(tmp_path / "hero-000001-state", 10)
    assert find_state("latest", tmp_path, "hero") == mine


def test_brackets_in_a_name_are_letters(tmp_path: Path) -> None:
    bare_state(tmp_path / "heroa-state", 500)
    mine = bare_state(tmp_path / "hero[a]-state", 10)
    assert find_state("latest", tmp_path, "hero[a]") == mine


def test_the_last_run_of_a_name_goes_before_a_longer_former_one(tmp_path: Path) -> None:
    bare_state(tmp_path / "hero-state", 1000, started_at=1000.0)
    newer = bare_state(tmp_path / "hero-step00000100-state", 100, started_at=2000.0)
    os.utime(newer / "state.json", (1, 1))  # a copied folder has other times; what is written inside counts
    assert find_state("latest", tmp_path, "hero") == newer


def test_torn_states_are_passed_over_and_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = bare_state(tmp_path / "hero-000001-state", 10)
    torn = bare_state(tmp_path / "hero-000002-state", 20)
    truncated(torn / "state.json")
    (tmp_path / "hero-000003-state").mkdir()
    with caplog.at_level(logging.WARNING, logger="dojo"):
        assert find_state("latest", tmp_path, "hero") == whole
    assert "hero-000002-state" in caplog.text
    assert "hero-000003-state" in caplog.text


# --- what may change


def test_nothing_changed_nothing_told() -> None:
    assert changes_since(POSITION, CONFIG) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [("network_module", "my.network"), ("network_dim", 16), ("network_args", {"conv_dim": 8}), ("optimizer_type", "Lion"), ("seed", 8)],
)  # fmt: skip
def test_what_the_tensors_do_not_allow_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(UserError) as caught:
        changes_since(POSITION, CONFIG | {key: value})
    assert key in str(caught.value)
    assert str(value) in str(caught.value)


def test_every_forbidden_change_is_named() -> None:
    with pytest.raises(UserError, match=r"network_dim.*optimizer_type"):
        changes_since(POSITION, CONFIG | {"network_dim": 16, "optimizer_type": "Lion"})


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", None), ("output_dir", "elsewhere"), ("max_train_steps", 200), ("network_args", {"conv_dim": "4"})],
)
def test_indifferent_changes_are_not_told(key: str, value: object) -> None:
    assert changes_since(POSITION, CONFIG | {key: value}) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [("learning_rate", 2e-4), ("train_batch_size", 4), ("text_encoder_lr", [1e-5]), ("an_option_that_is_new", True)],
)
def test_other_changes_are_told(key: str, value: object) -> None:
    (told,) = changes_since(POSITION, CONFIG | {key: value})
    assert key in told
    assert str(value) in told


def test_values_are_compared_as_they_are_saved() -> None:
    saved = replace(POSITION, config=json.loads(json.dumps(CONFIG | {"text_encoder_lr": (1e-5, 2e-5)})))
    assert changes_since(saved, CONFIG | {"text_encoder_lr": (1e-5, 2e-5)}) == []


def test_a_drawn_seed_may_be_written_down_later() -> None:
    drawn = replace(POSITION, config=CONFIG | {"seed": None})
    assert changes_since(drawn, CONFIG | {"seed": POSITION.seed}) == []
    with pytest.raises(UserError, match="seed"):
        changes_since(drawn, CONFIG | {"seed": POSITION.seed + 1})
