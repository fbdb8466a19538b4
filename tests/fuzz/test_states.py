"""State folders: what `resume` reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from library.core.errors import UserError
from library.training.state.checkpoint import Position, find_state, load_state, read_position, save_state
from library.training.state.snapshot import Snapshot
from tests.fuzz.strategies import VALUES, as_json, damaged, fuzzed, outcome

TENSORS = {"network": {"a": torch.arange(6.0)}, "optimizer": {"b": torch.ones(3)}}
SCALARS: dict[str, Any] = {"optimizer": {"lr": 0.1}, "loss_scale": {"scale": 2.0}, "nan_met": 0, "halved": []}
POSITION = Position(5, 10, 3, "pictures", "unet", {"network_dim": 4}, 1e9, 1e9, "CPU")


@pytest.fixture
def states(tmp_path: Path) -> list[Path]:
    """Two states of one run, the older first."""
    folders = [tmp_path / f"last-step{step:08d}-state" for step in (4, 5)]
    for step, folder in zip((4, 5), folders, strict=True):
        save_state(folder, Snapshot(TENSORS, SCALARS), replace(POSITION, step=step, saved_at=float(step)))
    return folders


def check(states: list[Path]) -> None:
    """The damaged newer state is told of or read; `latest` finds that one or the older one, which is whole."""
    position = outcome(lambda: read_position(states[1]), states[1].name)
    snapshot = outcome(lambda: load_state(states[1]), states[1].name)
    assert isinstance(position, UserError) or isinstance(position.step, int)
    if not isinstance(snapshot, UserError):
        found = {
            part: {name: each.tolist() for name, each in tensors.items()} for part, tensors in snapshot.tensors.items()
        }
        assert found == {
            part: {name: each.tolist() for name, each in tensors.items()} for part, tensors in TENSORS.items()
        }
    latest = find_state("latest", states[0].parent, "last")
    assert latest is not None
    assert latest[0] == states[0] or (latest[0] == states[1] and not isinstance(position, UserError))


@fuzzed(40)
@given(data=st.data(), name=st.sampled_from(["state.json", "network.safetensors", "optimizer.safetensors"]))
def test_damaged_files(data: st.DataObject, name: str, states: list[Path]) -> None:
    file = states[1] / name
    before = file.read_bytes()
    file.write_bytes(data.draw(damaged(before)))
    check(states)
    file.write_bytes(before)


@fuzzed(40)
@given(data=st.data())
def test_any_description(data: st.DataObject, states: list[Path]) -> None:
    file = states[1] / "state.json"
    before = file.read_text(encoding="utf-8")
    description = json.loads(before)
    for key in data.draw(st.lists(st.sampled_from(sorted(description)), min_size=1, max_size=3)):
        description[key] = data.draw(VALUES)
    file.write_text(as_json(data.draw(st.just(description) | VALUES)), encoding="utf-8")
    check(states)
    file.write_text(before, encoding="utf-8")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"step": ' + "9" * 5000 + "}", "", "null", "\ufeff{}"])
def test_what_no_description_is(states: list[Path], text: str) -> None:
    (states[1] / "state.json").write_text(text, encoding="utf-8")
    check(states)
