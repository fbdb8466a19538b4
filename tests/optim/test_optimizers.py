from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from library.config.schema.training import OptimizerConfig, ScheduleConfig
from library.core.errors import UserError
from library.core.registry import OPTIMIZERS
from library.optim import catalogue, options
from library.optim.flat import FlatGroup, flatten
from library.optim.kind import OptimizerKind
from library.optim.optimizers import build_optimizer, check_optimizer, find_optimizer, warn_about_schedule
from tests.optim.conftest import Group, Run, new_parameters, usual_rate

NewRun = Callable[..., Run]

NAMES = [name for name in OPTIMIZERS.names() if isinstance(OPTIMIZERS.get(name), OptimizerKind)]
EIGHT_BIT = ["AdamW8bit", "PagedAdamW8bit", "Lion8bit", "PagedLion8bit", "SGDNesterov8bit"]

pytestmark = pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")


def single_tensors(name: str) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    """The package's own class over ordinary parameters, each with its own gradient."""
    kind = find_optimizer(name)
    parameters = new_parameters()
    groups = [{"params": parameters[group], "lr": usual_rate(name)} for group in parameters]
    optimizer = kind.load()(groups, lr=usual_rate(name), **kind.parse({}))
    if hasattr(optimizer, "train"):
        optimizer.train()
    return [parameter for group in parameters.values() for parameter in group], optimizer


@pytest.mark.parametrize("name", [name for name in NAMES if name != "AdaFactor"])
def test_flat_storage_trains_as_single_tensors_do(name: str, new_run: NewRun) -> None:
    run = new_run(name)
    parameters, optimizer = single_tensors(name)
    flat = [parameter for group in run.groups for parameter in group.parameters]
    for step in range(4):
        run.accumulate(step)
        for single, window in zip(parameters, flat, strict=True):
            single.grad = window.grad.clone()  # type: ignore[union-attr]
        run.optimizer.step()
        optimizer.step()
    assert all(len(group["params"]) == 1 for group in run.optimizer.inner.param_groups)
    for single, window in zip(parameters, flat, strict=True):
        if name in EIGHT_BIT:
            assert torch.equal(single, window)
        else:  # sums over all values, and so D-Adaptation's estimates, round in another order
            torch.testing.assert_close(single, window, rtol=1e-4, atol=1e-5)
        assert not torch.equal(single, torch.zeros_like(single))


@pytest.mark.parametrize("name", EIGHT_BIT)
def test_eight_bit_state_is_eight_bit(name: str, new_run: NewRun) -> None:
    run = new_run(name)
    run.train(0, 1)
    for group in run.groups:
        assert run.optimizer.inner.state[group.flat_parameter]["state1"].dtype == torch.uint8


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_comes_nearer_to_its_target(name: str, new_run: NewRun) -> None:
    run = new_run(name, lr=1e-2 if usual_rate(name) < 1 else 1.0)
    target = torch.ones(1)

    distances = []
    for _ in range(30):
        distances.append(sum(float((group.values - target).square().sum()) for group in run.groups))
        for group in run.groups:
            group.zero_grad()
            sum((parameter - target).square().sum() for parameter in group.parameters).backward()  # type: ignore[union-attr]
        run.optimizer.step()
    assert min(distances[1:]) < distances[0]


def test_names_are_found_in_any_case_and_in_torch() -> None:
    assert find_optimizer("adamw8BIT") is catalogue.adamw_8bit
    assert find_optimizer("adafactor") is catalogue.adafactor
    assert find_optimizer("radam").load() is torch.optim.RAdam
    assert find_optimizer("torch.optim.NAdam").elementwise


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("AdamW9bit", "AdamW8bit"),
        ("no.such.Optimizer", "no.such"),
        ("math.sqrt", "not a class"),
        ("LBFGS", "several times"),
    ],
)
def test_what_is_no_optimizer_is_refused(name: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        find_optimizer(name)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prodigyopt", None)
    with pytest.raises(UserError, match="pip install prodigyopt"):
        check_optimizer(OptimizerConfig(optimizer_type="Prodigy"))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("AdamW", {"weight_decy": "0.1"}),
        ("AdamW8bit", {"betas": "0.9"}),
        ("Lion", {"betas": "much"}),
        ("torch.optim.RAdam", {"epps": 1}),
    ],
)
def test_wrong_arguments_are_named(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"optimizer_args.*{next(iter(arguments))}"):
        check_optimizer(OptimizerConfig(optimizer_type=name, optimizer_args=arguments))


def test_arguments_reach_the_optimizer(new_run: NewRun) -> None:
    run = new_run("AdamW8bit", {"betas": "0.8,0.95", "weight_decay": "0.1"})
    group = run.optimizer.inner.param_groups[0]
    assert (group["betas"], group["weight_decay"], group["name"]) == ((0.8, 0.95), 0.1, "unet")


def test_a_value_the_package_refuses_is_the_users_to_see(new_run: NewRun) -> None:
    with pytest.raises(UserError, match=r"AdamW.*beta"):
        new_run("AdamW", {"betas": "1.5,0.9"})


@pytest.mark.parametrize("name", NAMES)
def test_our_defaults_are_the_packages(name: str) -> None:
    kind = find_optimizer(name)
    theirs = inspect.signature(kind.load()).parameters
    chosen = {"fused", "momentum"} if name in ("AdamW", "SGDNesterov", "SGDNesterov8bit") else set()
    for argument, ours in kind.parse({}).items():
        if argument not in chosen | {"nesterov"}:
            assert theirs[argument].default == ours, argument


def test_every_option_is_explained() -> None:
    from library.config.field_docs import field_docs

    for options_type in vars(options).values():
        if inspect.isclass(options_type) and options_type.__module__ == options.__name__:
            assert set(field_docs(options_type)) == {field.name for field in fields(options_type)}


@pytest.mark.parametrize("name", ["Prodigy", "DAdaptAdam", "DAdaptSGD"])
def test_one_rate_optimizers_refuse_several(name: str) -> None:
    parameters = new_parameters()
    groups = flatten([Group("unet", parameters["unet"], 1.0), Group("textencoder", parameters["textencoder"], 0.5)])
    with pytest.raises(UserError, match=r"unet 1, textencoder 0\.5"):
        build_optimizer(OptimizerConfig(optimizer_type=name), groups)


@pytest.mark.parametrize(
    ("name", "rate", "warned"), [("Prodigy", 1e-4, True), ("Prodigy", 1.0, False), ("Lion", 1e-4, False)]
)
def test_a_small_rate_for_an_optimizer_that_estimates_it_is_said(
    name: str, rate: float, warned: bool, caplog: pytest.LogCaptureFixture, new_run: NewRun
) -> None:
    with caplog.at_level(logging.WARNING, logger="dojo"):
        new_run(name, lr=rate)
    assert ("1 is usual" in caplog.text) == warned


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("DAdapt", "Prodigy"))])
def test_a_rate_of_zero_changes_nothing(name: str, new_run: NewRun) -> None:
    run = new_run(name)
    before = [group.values.clone() for group in run.groups]
    run.accumulate(0)
    run.optimizer.set_factor(0.0)
    run.optimizer.step()
    assert all(torch.equal(group.values, values) for group, values in zip(run.groups, before, strict=True))
    run.train(1, 2)
    assert all("d" in group for group in run.optimizer.inner.param_groups)
    rates = run.optimizer.effective_rates()
    d = run.optimizer.inner.param_groups[0]["d"]
    assert rates == {"unet": pytest.approx(0.98 * d), "textencoder": pytest.approx(0.98 * d)}


def test_rates_follow_the_factor(new_run: NewRun) -> None:
    run = new_run("AdamW")
    run.optimizer.set_factor(0.25)
    assert run.optimizer.rates() == run.optimizer.effective_rates() == {"unet": 2.5e-4, "textencoder": 2.5e-4}
    assert not any("d" in group for group in run.optimizer.inner.param_groups)


def test_adafactor_follows_its_own_schedule_unless_told_otherwise(new_run: NewRun) -> None:
    own = new_run("AdaFactor")
    own.train(0, 2)
    assert own.optimizer.rates() == {"unet": 0.0, "textencoder": 0.0}
    size = float(own.groups[0].parameters[0].detach().square().mean().sqrt())
    assert own.optimizer.effective_rates()["unet"] == pytest.approx(1e-2 * size, rel=0.05)
    given = new_run("AdaFactor", {"relative_step": "False", "scale_parameter": "False"})
    given.train(0, 1)
    assert given.optimizer.effective_rates() == given.optimizer.rates() == {"unet": 1e-3, "textencoder": 1e-3}


def test_adafactors_warmup_switches_its_schedule_on(caplog: pytest.LogCaptureFixture, new_run: NewRun) -> None:
    with caplog.at_level(logging.WARNING, logger="dojo"):
        run = new_run("AdaFactor", {"relative_step": False, "warmup_init": True})
    assert "relative_step" in caplog.text
    assert run.optimizer.inner.param_groups[0]["lr"] is None


@pytest.mark.parametrize("name", ["AdamW", "AdamW8bit", "Prodigy"])
def test_gradients_that_are_not_finite_change_nothing(name: str, new_run: NewRun) -> None:
    run = new_run(name)
    run.train(0, 2)
    before = [group.values.clone() for group in run.groups]
    run.accumulate(2)
    run.groups[0].gradients[0] = torch.nan
    run.optimizer.step(found_inf=torch.ones(()))
    assert all(torch.equal(group.values, values) for group, values in zip(run.groups, before, strict=True))
    run.accumulate(2)
    run.optimizer.step(found_inf=torch.zeros(()))
    assert all(torch.isfinite(group.values).all() for group in run.groups)
    assert not torch.equal(run.groups[0].values, before[0])
    assert run.optimizer.skips_on_device == (name == "AdamW")


@pytest.mark.parametrize("name", ["AdamWScheduleFree", "RAdamScheduleFree", "SGDScheduleFree"])
def test_evaluating_shows_the_average_and_leaves_training_alone(name: str, new_run: NewRun) -> None:
    looked_at, alone = new_run(name), new_run(name)
    for step in range(8):
        looked_at.train(step, 1)
        alone.train(step, 1)
        before = looked_at.groups[0].values.clone()
        with looked_at.optimizer.evaluating():
            shown = looked_at.groups[0].values.clone()
        assert torch.equal(looked_at.groups[0].values, before)
    assert not torch.equal(shown, before)
    for ours, theirs in zip(looked_at.groups, alone.groups, strict=True):
        assert torch.equal(ours.values, theirs.values)
    alone.optimizer.inner.eval()  # type: ignore[attr-defined]
    assert torch.equal(alone.groups[0].values, shown)


def test_evaluating_is_nothing_special_for_the_others(new_run: NewRun) -> None:
    run = new_run("AdamW")
    run.train(0, 1)
    before = [group.values.clone() for group in run.groups]
    with run.optimizer.evaluating():
        assert all(torch.equal(group.values, values) for group, values in zip(run.groups, before, strict=True))
    assert all(torch.equal(group.values, values) for group, values in zip(run.groups, before, strict=True))


def test_a_rate_held_in_a_tensor_is_changed_in_place() -> None:
    group = FlatGroup("unet", new_parameters()["unet"], 1e-3)
    optimizer = build_optimizer(OptimizerConfig(optimizer_type="AdamW"), [group])
    rate = torch.tensor(1e-3)
    optimizer.inner.param_groups[0]["lr"] = rate
    optimizer.set_factor(0.5)
    assert optimizer.inner.param_groups[0]["lr"] is rate
    assert optimizer.rates()["unet"] == pytest.approx(5e-4)


def test_ones_own_class_by_dotted_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_run: NewRun) -> None:
    source = (
        "import torch\n"
        "class Sign(torch.optim.Optimizer):\n"
        "    elementwise = True\n"
        "    def __init__(self, params, lr=1e-3, power: float = 1.0):\n"
        "        super().__init__(params, dict(lr=lr, power=power))\n"
        "    @torch.no_grad()\n"
        "    def step(self, closure=None):\n"
        "        for group in self.param_groups:\n"
        "            for p in group['params']:\n"
        "                p.sub_(p.grad.sign() * group['lr'] * group['power'])\n"
    )
    (tmp_path / "optimizer_of_a_test.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    run = new_run("optimizer_of_a_test.Sign", {"power": "2"})
    before = run.groups[0].parameters[0].detach().clone()
    run.train(0, 1)
    assert len(run.optimizer.inner.param_groups[0]["params"]) == 1
    torch.testing.assert_close(
        (run.groups[0].parameters[0] - before).abs(), torch.full_like(before, 2e-3), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize(
    ("name", "schedule", "said"),
    [
        ("AdaFactor", "cosine", "no effect"),
        ("AdamWScheduleFree", "cosine", "schedule-free"),
        ("AdamW", "cosine", ""),
        ("AdaFactor", "constant", ""),
    ],
)
def test_a_schedule_that_works_against_the_optimizer_is_said(
    name: str, schedule: str, said: str, caplog: pytest.LogCaptureFixture, new_run: NewRun
) -> None:
    with caplog.at_level(logging.WARNING, logger="dojo"):
        warn_about_schedule(new_run(name).optimizer, ScheduleConfig(lr_scheduler=schedule))
    assert said in caplog.text
    assert bool(caplog.text) == bool(said)
