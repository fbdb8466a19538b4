from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers.optimization as by_diffusers
import pytest
import torch
import transformers.optimization as by_transformers

from library.config.schema.training import ScheduleConfig
from library.core.errors import UserError
from library.optim.schedules import build_schedule, check_schedule, depends_on_length

TOTAL, WARMUP = 200, 30


def reference(make: Callable[..., Any], **arguments: Any) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make(optimizer, **arguments).lr_lambdas[0]
    return [schedule(step) for step in range(TOTAL)]


def ours(config: ScheduleConfig) -> list[float]:
    factor = build_schedule(config, TOTAL)
    return [factor(step) for step in range(TOTAL)]


RUN = {"num_warmup_steps": WARMUP, "num_training_steps": TOTAL}


@pytest.mark.parametrize(
    ("config", "make", "arguments"),
    [
        (ScheduleConfig(), by_diffusers.get_constant_schedule, {}),
        (
            ScheduleConfig("constant_with_warmup", {}, 30),
            by_diffusers.get_constant_schedule_with_warmup,
            {"num_warmup_steps": 30},
        ),
        (ScheduleConfig("linear", {}, 30), by_diffusers.get_linear_schedule_with_warmup, RUN),
        (ScheduleConfig("cosine", {}, 30), by_diffusers.get_cosine_schedule_with_warmup, RUN),
        (
            ScheduleConfig("cosine", {"num_cycles": "1.5"}, 0.15),
            by_diffusers.get_cosine_schedule_with_warmup,
            {**RUN, "num_cycles": 1.5},
        ),
        (
            ScheduleConfig("cosine_with_restarts", {}, 30, lr_scheduler_num_cycles=3),
            by_diffusers.get_cosine_with_hard_restarts_schedule_with_warmup,
            {**RUN, "num_cycles": 3},
        ),
        (
            ScheduleConfig("polynomial", {}, 30, lr_scheduler_power=2.0, lr_scheduler_min_lr_ratio=0.1),
            by_diffusers.get_polynomial_decay_schedule_with_warmup,
            {**RUN, "power": 2.0, "lr_end": 0.1},
        ),
        (
            ScheduleConfig("cosine_with_min_lr", {}, 30, lr_scheduler_min_lr_ratio=0.2),
            by_transformers.get_cosine_with_min_lr_schedule_with_warmup,
            {**RUN, "min_lr_rate": 0.2},
        ),
        (ScheduleConfig("inverse_sqrt", {}, 30), by_transformers.get_inverse_sqrt_schedule, {"num_warmup_steps": 30}),
        (
            ScheduleConfig("inverse_sqrt", {}, 0, lr_scheduler_timescale=50),
            by_transformers.get_inverse_sqrt_schedule,
            {"num_warmup_steps": 0, "timescale": 50},
        ),
        (
            ScheduleConfig("warmup_stable_decay", {}, 30, 0.25),
            by_transformers.get_wsd_schedule,
            {**RUN, "num_decay_steps": 50},
        ),
        (
            ScheduleConfig("warmup_stable_decay", {"decay_type": "1-sqrt"}, 0, 50, lr_scheduler_min_lr_ratio=0.1),
            by_transformers.get_wsd_schedule,
            {
                "num_warmup_steps": 0,
                "num_training_steps": TOTAL,
                "num_decay_steps": 50,
                "decay_type": "1-sqrt",
                "min_lr_ratio": 0.1,
            },
        ),
        (
            ScheduleConfig("piecewise_constant", {"step_rules": "1:50,0.1:120,0.01"}),
            by_diffusers.get_piecewise_constant_schedule,
            {"step_rules": "1:50,0.1:120,0.01"},
        ),
    ],
)
def test_agrees_with_diffusers_and_transformers(
    config: ScheduleConfig, make: Callable[..., Any], arguments: dict[str, Any]
) -> None:
    assert ours(config) == pytest.approx(reference(make, **arguments), rel=1e-12, abs=1e-12)


NAMES = ["constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt", "warmup_stable_decay"]


@pytest.mark.parametrize("name", NAMES)
def test_all_warm_up_and_none_falls_below_the_least_rate(name: str) -> None:
    config = ScheduleConfig(name, {}, 0.1, 0.2, lr_scheduler_min_lr_ratio=0.3)
    factors = ours(config)
    assert factors[:20] == pytest.approx([step / 20 for step in range(20)])
    assert factors[20] == 1
    assert all(0.3 <= factor <= 1 for factor in factors[20:])
    factor = build_schedule(config, TOTAL)
    assert factor(2 * TOTAL) >= 0.3


@pytest.mark.parametrize("name", ["linear", "cosine", "polynomial", "warmup_stable_decay"])
def test_past_the_end_the_rate_stays_at_its_least(name: str) -> None:
    factor = build_schedule(ScheduleConfig(name, {}, 0, 50, lr_scheduler_min_lr_ratio=0.1), TOTAL)
    assert [factor(TOTAL), factor(TOTAL + 1), factor(3 * TOTAL)] == pytest.approx([0.1] * 3)


@pytest.mark.parametrize(
    ("config", "depends"),
    [
        (ScheduleConfig("constant"), False),
        (ScheduleConfig("constant_with_warmup", {}, 100), False),
        (ScheduleConfig("constant_with_warmup", {}, 0.1), True),
        (ScheduleConfig("inverse_sqrt", {}, 100), False),
        (ScheduleConfig("piecewise_constant", {"step_rules": "1:50,0.1"}), False),
        (ScheduleConfig("cosine"), True),
        (ScheduleConfig("linear", {}, 30_000), True),
        (ScheduleConfig("warmup_stable_decay", {}, 0, 20_000), True),
        (ScheduleConfig("torch.optim.lr_scheduler.StepLR", {"step_size": 100}), False),
        (ScheduleConfig("torch.optim.lr_scheduler.OneCycleLR", {"max_lr": 1}), True),
    ],
)
def test_which_schedules_depend_on_the_length(config: ScheduleConfig, depends: bool) -> None:
    assert depends_on_length(config) is depends


def test_phases_longer_than_the_run_are_refused() -> None:
    with pytest.raises(UserError, match=r"lr_warmup_steps \(150\).*lr_decay_steps \(100\).*200 steps"):
        build_schedule(ScheduleConfig("warmup_stable_decay", {}, 150, 0.5), TOTAL)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (ScheduleConfig("cosin"), "cosine"),
        (ScheduleConfig("cosine", {"num_cylces": 2}), "num_cycles"),
        (ScheduleConfig("warmup_stable_decay", {"decay_type": "steep"}), "decay_type"),
        (ScheduleConfig("piecewise_constant"), "step_rules"),
        (ScheduleConfig("piecewise_constant", {"step_rules": "one:two"}), "step_rules"),
        (ScheduleConfig("torch.optim.lr_scheduler.ReduceLROnPlateau"), "nothing but the step"),
        (ScheduleConfig("torch.optim.lr_scheduler.StepLR", {"gama": 0.1}), "gamma"),
        (ScheduleConfig("torch.optim.lr_scheduler.OneCycleLR", {"max_lr": 1, "pct_start": 2.0}), "pct_start"),
        (ScheduleConfig("torch.optim.lr_scheduler"), "neither"),
    ],
)
def test_mistakes_are_named(config: ScheduleConfig, named: str) -> None:
    with pytest.raises(UserError, match=named):
        build_schedule(config, TOTAL)(60)


def test_settings_without_effect_are_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="dojo"):
        check_schedule(ScheduleConfig("cosine_with_restarts", lr_scheduler_num_cycles=3))
        assert not caplog.text
        check_schedule(ScheduleConfig("cosine", lr_scheduler_num_cycles=3, lr_scheduler_power=2.0))
    assert "lr_scheduler_num_cycles, lr_scheduler_power" in caplog.text


def test_a_torch_scheduler_is_replayed_from_the_step_alone() -> None:
    config = ScheduleConfig("torch.optim.lr_scheduler.CosineAnnealingLR", {"T_max": "100", "eta_min": "0.1"}, 50)
    factor = build_schedule(config, TOTAL)
    assert factor(150) == pytest.approx(0.1)
    assert factor(100) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.5)))
    assert build_schedule(config, TOTAL)(100) == factor(100)


@pytest.mark.parametrize("arguments", [{}, {"total_steps": 50}])
def test_a_torch_scheduler_of_fixed_length_holds_its_last_factor(arguments: dict[str, int]) -> None:
    factor = build_schedule(
        ScheduleConfig("torch.optim.lr_scheduler.OneCycleLR", {"max_lr": 1, "anneal_strategy": "linear", **arguments}),
        TOTAL,
    )
    steps = arguments.get("total_steps", TOTAL)
    peak = round(0.3 * steps) - 1  # pct_start: rises from 1/25 to 1, then falls to 1/25/10,000 in the last step
    assert [factor(0), factor(peak), factor(steps - 1)] == pytest.approx([1 / 25, 1, 4e-6])
    assert [factor(steps), factor(steps + 1), factor(3 * TOTAL)] == [factor(steps - 1)] * 3


def test_ones_own_function_by_dotted_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "def stairs(step, length, height: float = 0.5, lr_scheduler_num_cycles=1):\n    return height ** (step * lr_scheduler_num_cycles // length)\n"
    (tmp_path / "schedule_of_a_test.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    factor = build_schedule(
        ScheduleConfig("schedule_of_a_test.stairs", {"height": "0.1"}, lr_scheduler_num_cycles=4), TOTAL
    )
    assert [factor(0), factor(50), factor(100)] == pytest.approx([1, 0.1, 0.01])
