"""States come back whole, are found by their exact name, and allow only what their tensors allow."""

from __future__ import annotations

import hashlib
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
from library.training.state.checkpoint import (
    find_state,
    load_state,
    read_position,
    save_state,
)
from library.training.state.snapshot import Snapshot, restore, take_snapshot
from tests.training.conftest import POSITION

NewTrainer = Callable[..., Any]


def bare_state(folder: Path, step: int, saved_at: float | None = None) -> Path:
    """A state of next to nothing, saved so many seconds after the start as it has steps."""
    snapshot = Snapshot(
        {"network": {"0": torch.zeros(1)}, "optimizer": {}},
        {"optimizer": {}, "loss_scale": {}, "nan_met": 0, "halved": []},
    )
    save_state(folder, snapshot, replace(POSITION, step=step, saved_at=step if saved_at is None else saved_at))
    return folder


def latest(folder: Path, name: str) -> Path:
    found = find_state("latest", folder, name)
    assert found is not None
    return found[0]


# --- a state is what was saved


@pytest.mark.parametrize("optimizer", ["AdamW", "AdamWScheduleFree"])
@pytest.mark.parametrize("ema", [False, True])
def test_a_resumed_trainer_goes_on_bitwise(
    new_trainer: NewTrainer, update: Callable, tmp_path: Path, ema: bool, optimizer: str
) -> None:
    straight, resumed = (new_trainer(value, ema=ema, optimizer=optimizer) for value in (0.5, -3.0))
    for step in range(4):
        update(straight, step)
    save_state(tmp_path / "run-state", take_snapshot(straight), POSITION)
    restore(resumed, load_state(tmp_path / "run-state"), "it")
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
        save_state(tmp_path / "run-state", take_snapshot(other), POSITION)
    assert torch.equal(one.groups[0].values, other.groups[0].values)


def test_the_loss_scale_is_part_of_the_state(new_trainer: NewTrainer, tmp_path: Path) -> None:
    trainer, resumed = new_trainer(fp16=True), new_trainer(fp16=True)
    trainer.loss_scale.update(torch.tensor(1.0))
    save_state(tmp_path / "run-state", take_snapshot(trainer), POSITION)
    restore(resumed, load_state(tmp_path / "run-state"), "it")
    assert resumed.loss_scale.state() == {"on": 1.0, "scale": 2.0**15, "good_steps": 0.0}


def test_what_was_compared_is_what_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is read a second time may be another."""
    folder, read, opened = bare_state(tmp_path / "run-state", 5), Path.read_bytes, list[str]()
    monkeypatch.setattr(Path, "read_bytes", lambda file: opened.append(file.name) or read(file))
    load_state(folder)
    assert sorted(opened) == ["network.safetensors", "optimizer.safetensors"]


def test_the_position_comes_back(new_trainer: NewTrainer, tmp_path: Path) -> None:
    save_state(tmp_path / "run-state", take_snapshot(new_trainer()), POSITION)
    assert read_position(tmp_path / "run-state") == POSITION
    assert find_state(str(tmp_path / "run-state"), tmp_path, "other") == (tmp_path / "run-state", POSITION)


def test_an_older_state_does_not_say_what_its_run_started_from(tmp_path: Path) -> None:
    file = bare_state(tmp_path / "run-state", 5) / "state.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    del content["network_weights"], content["digest"]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    file.write_text(json.dumps({**content, "digest": digest}), encoding="utf-8")
    assert read_position(tmp_path / "run-state").network_weights is None


def test_another_network_is_refused(new_trainer: NewTrainer, tmp_path: Path) -> None:
    save_state(tmp_path / "run-state", take_snapshot(new_trainer()), POSITION)
    with pytest.raises(UserError, match="another network"):
        restore(new_trainer(size=600), load_state(tmp_path / "run-state"), "it")


def test_another_optimizer_is_refused(new_trainer: NewTrainer, tmp_path: Path) -> None:
    save_state(tmp_path / "run-state", take_snapshot(new_trainer()), POSITION)
    with pytest.raises(UserError, match="AdamW"):
        restore(new_trainer(optimizer="Lion"), load_state(tmp_path / "run-state"), "it")


def test_an_average_cannot_be_made_up(new_trainer: NewTrainer, tmp_path: Path) -> None:
    save_state(tmp_path / "run-state", take_snapshot(new_trainer()), POSITION)
    with pytest.raises(UserError, match="ema_decay"):
        restore(new_trainer(ema=True), load_state(tmp_path / "run-state"), "it")


# --- damage is noticed


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def one_bit_flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [Path.unlink, truncated, one_bit_flipped])
@pytest.mark.parametrize("name", ["network.safetensors", "optimizer.safetensors", "average.safetensors"])
def test_a_torn_file_is_named(
    new_trainer: NewTrainer, update: Callable, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    trainer = new_trainer(ema=True)
    update(trainer, 0)
    save_state(tmp_path / "run-state", take_snapshot(trainer), POSITION)
    damage(tmp_path / "run-state" / name)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        read_position(tmp_path / "run-state")


def test_what_is_no_state_is_refused(tmp_path: Path) -> None:
    for content in (None, "{", ""):
        if content is not None:
            (tmp_path / "state.json").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match="not a state"):
            read_position(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    folder = bare_state(tmp_path / "run-state", 5)
    description = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    (folder / "state.json").write_text(json.dumps(description | {"format_version": 3}), encoding="utf-8")
    with pytest.raises(UserError, match="version 3"):
        read_position(folder)


@pytest.mark.parametrize(
    "content", [[], {"step": "5"}, {"files": []}, {"files": {"../network.safetensors": "0"}}, {"config": None}]
)
def test_a_description_with_something_else_in_it_is_refused(tmp_path: Path, content: Any) -> None:
    folder = bare_state(tmp_path / "run-state", 5)
    description = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    changed = description | content if isinstance(content, dict) else content
    (folder / "state.json").write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(UserError):
        read_position(folder)


# --- `latest`


def test_nothing_to_resume_is_no_mistake(tmp_path: Path) -> None:
    assert find_state("latest", tmp_path, "hero") is None
    assert find_state("latest", tmp_path / "not made yet", "hero") is None


@pytest.mark.parametrize("name", ["hero", "hero [v1] (final)", "hero.v2+", "hero-step"])
def test_the_furthest_state_of_a_run_is_found(tmp_path: Path, name: str) -> None:
    bare_state(tmp_path / f"{name}-000001-state", 10)
    bare_state(tmp_path / f"{name}-step00000030-state", 30)
    bare_state(tmp_path / f"{name}-000002-state", 20)
    assert latest(tmp_path, name) == tmp_path / f"{name}-step00000030-state"
    bare_state(tmp_path / f"{name}-state", 40)
    assert latest(tmp_path, name) == tmp_path / f"{name}-state"


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
    assert latest(tmp_path, "hero") == mine


def test_brackets_in_a_name_are_letters(tmp_path: Path) -> None:
    bare_state(tmp_path / "heroa-state", 500)
    mine = bare_state(tmp_path / "hero[a]-state", 10)
    assert latest(tmp_path, "hero[a]") == mine


def test_what_was_saved_last_goes_before_what_has_more_steps(tmp_path: Path) -> None:
    bare_state(tmp_path / "hero-state", 1000, saved_at=1000.0)
    newer = bare_state(tmp_path / "hero-step00000100-state", 100, saved_at=2000.0)
    os.utime(newer / "state.json", (1, 1))  # a copied folder has other times; what is written inside counts
    assert latest(tmp_path, "hero") == newer


def test_torn_states_are_passed_over_and_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = bare_state(tmp_path / "hero-000001-state", 10)
    torn = bare_state(tmp_path / "hero-000002-state", 20)
    truncated(torn / "state.json")
    (tmp_path / "hero-000003-state").mkdir()
    with caplog.at_level(logging.WARNING, logger="dojo"):
        assert latest(tmp_path, "hero") == whole
    assert "hero-000002-state" in caplog.text
    assert "hero-000003-state" in caplog.text


def test_where_every_state_is_damaged_the_run_does_not_start_anew(tmp_path: Path) -> None:
    truncated(bare_state(tmp_path / "hero-000001-state", 10) / "state.json")
    with pytest.raises(UserError, match="hero-000001-state"):
        find_state("latest", tmp_path, "hero")
