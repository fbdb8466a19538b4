from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from library.config.schema.training import OptimizerConfig
from library.core.errors import UserError
from library.core.registry import OPTIMIZERS
from library.optim.flat import FlatGroup
from library.optim.optimizers import build_optimizer
from library.optim.state import load_optimizer_state, optimizer_state
from tests.optim.conftest import Run

NewRun = Callable[..., Run]

NAMES = [
    *OPTIMIZERS.names(),
    "torch.optim.RAdam",
    "torch.optim.Adagrad",
    "torch.optim.Adafactor",
    "bitsandbytes.optim.AdEMAMix8bit",
]

pytestmark = pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")


def through_files(tensors: dict[str, Tensor], scalars: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return load(save(tensors)), json.loads(json.dumps(scalars))


def resumed(run: Run, name: str, new_run: NewRun, arguments: dict[str, Any] | None = None) -> Run:
    """Another run, begun from other values, that takes over the parameters and the state."""
    tensors, scalars = through_files(*optimizer_state(run.optimizer.inner))
    other = new_run(name, arguments, seed=1)
    for ours, theirs in zip(other.groups, run.groups, strict=True):
        ours.values.copy_(theirs.values)
    load_optimizer_state(other.optimizer.inner, tensors, scalars)
    return other


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_is_the_uninterrupted_one(name: str, new_run: NewRun) -> None:
    straight, stopped = new_run(name), new_run(name)
    straight.train(0, 10)
    stopped.train(0, 5)
    other = resumed(stopped, name, new_run)
    other.train(5, 5)
    for ours, theirs in zip(other.groups, straight.groups, strict=True):
        assert torch.equal(ours.values, theirs.values)
    assert other.optimizer.effective_rates() == straight.optimizer.effective_rates()


@pytest.mark.parametrize("name", ["AdamW", "AdamW8bit", "AdamWScheduleFree", "AdaFactor"])
def test_before_the_first_step_there_is_nothing_to_lose(name: str, new_run: NewRun) -> None:
    straight = new_run(name)
    other = resumed(new_run(name), name, new_run)
    straight.train(0, 2)
    other.train(0, 2)
    assert torch.equal(other.groups[0].values, straight.groups[0].values)


def test_eight_bit_states_are_saved_as_they_are(new_run: NewRun) -> None:
    run = new_run("AdamW8bit")
    run.train(0, 3)
    tensors, _ = optimizer_state(run.optimizer.inner)
    other = resumed(run, "AdamW8bit", new_run)
    assert tensors["0.0.state1"].dtype == torch.uint8
    for key, value in run.optimizer.inner.state[run.groups[0].flat_parameter].items():
        loaded = other.optimizer.inner.state[other.groups[0].flat_parameter][key]
        assert torch.equal(loaded, value) if isinstance(value, Tensor) else loaded == value
    tables = [other.optimizer.inner.state[group.flat_parameter]["qmap1"] for group in other.groups]
    assert tables[0].data_ptr() == tables[1].data_ptr()


def test_saving_does_not_tie_the_tensors_to_the_run(new_run: NewRun) -> None:
    run = new_run("AdamW")
    run.train(0, 1)
    tensors, _ = optimizer_state(run.optimizer.inner)
    before = tensors["0.0.exp_avg"].clone()
    run.train(1, 1)
    assert torch.equal(tensors["0.0.exp_avg"], before)


def test_changed_arguments_take_effect(new_run: NewRun) -> None:
    run = new_run("Prodigy", {"d_coef": 1.0})
    run.train(0, 3)
    other = resumed(run, "Prodigy", new_run, {"d_coef": 2.0})
    group, former = other.optimizer.inner.param_groups[0], run.optimizer.inner.param_groups[0]
    assert group["d_coef"] == 2.0
    assert group["d"] == former["d"]
    assert group["k"] == former["k"] == 3


def test_every_kind_of_value_returns_exactly() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    values = {
        "third": 1 / 3,
        "tiny": 5e-324,
        "infinite": math.inf,
        "negative": -math.inf,
        "large": 2**70,
        "flag": True,
        "nothing": None,
        "word": "état",
        "pair": (1, 2.5, torch.arange(3, dtype=torch.uint8)),
        "nested": {"list": [1, {"deep": torch.ones(2, dtype=torch.bfloat16)}], 7: "seven"},
    }
    one, other = torch.optim.SGD([parameter], lr=1.0), torch.optim.SGD([parameter], lr=1.0)
    one.state[parameter] = {**values, "undefined": math.nan}
    load_optimizer_state(other, *through_files(*optimizer_state(one)))
    loaded = other.state[parameter]
    assert math.isnan(loaded.pop("undefined"))
    for key in ("third", "tiny", "infinite", "negative", "large", "flag", "nothing", "word"):
        assert loaded[key] == values[key]
        assert type(loaded[key]) is type(values[key])
    assert loaded["pair"][:2] == (1, 2.5)
    assert torch.equal(loaded["pair"][2], torch.arange(3, dtype=torch.uint8))
    assert torch.equal(loaded["nested"]["list"][1]["deep"], torch.ones(2, dtype=torch.bfloat16))
    assert loaded["nested"][7] == "seven"


def test_what_cannot_be_saved_is_named() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    optimizer.state[parameter] = {"hook": lambda: None}
    with pytest.raises(UserError, match=r"hook.*function"):
        optimizer_state(optimizer)


def test_the_state_of_another_optimizer_is_refused(new_run: NewRun) -> None:
    run = new_run("AdamW")
    run.train(0, 1)
    tensors, scalars = optimizer_state(run.optimizer.inner)
    with pytest.raises(UserError, match=r"AdamW.*Lion"):
        load_optimizer_state(new_run("Lion").optimizer.inner, tensors, scalars)


def test_the_state_of_other_groups_is_refused(new_run: NewRun) -> None:
    run = new_run("AdamW")
    run.train(0, 1)
    tensors, scalars = optimizer_state(run.optimizer.inner)
    group = FlatGroup("unet", [torch.nn.Parameter(torch.zeros(512))], 1e-3)
    other = build_optimizer(OptimizerConfig(optimizer_type="AdamW"), [group])
    with pytest.raises(UserError, match=r"textencoder \(5,120 values\).*trains unet \(512 values\);"):
        load_optimizer_state(other.inner, tensors, scalars)
