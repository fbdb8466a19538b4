"""The demo model's training loop: it learns, averages, and resumes exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from library.demo.loop import Plan, fit, rate_at


def _plan(folder: Path, steps: int = 12) -> Plan:
    return Plan("toy", steps, 4, 1e-2, 3, folder / "toy.pt", folder / "log.csv", warmup=4, save_every=4, log_every=4)


def _toy() -> tuple[nn.Module, object]:
    torch.manual_seed(0)
    module, inputs_NC = nn.Linear(3, 1), torch.randn(32, 3)

    def loss_of(indices_B, generator):
        noise = 0.01 * torch.randn(1, generator=generator)
        loss = (module(inputs_NC[indices_B]) - inputs_NC[indices_B].sum(dim=1, keepdim=True) + noise).square().mean()
        return loss, loss.detach()

    return module, loss_of


class Interrupted(Exception):
    """Stands for a run that is cut off."""


def test_an_interrupted_run_ends_in_the_same_weights(tmp_path):
    whole, loss_of = _toy()
    (tmp_path / "a").mkdir()
    fit(whole, loss_of, 32, _plan(tmp_path / "a"), on_save=lambda step: None)

    def interrupt(step: int) -> None:
        if step == 8:
            raise Interrupted

    module, loss_of = _toy()
    (tmp_path / "b").mkdir()
    with pytest.raises(Interrupted):
        fit(module, loss_of, 32, _plan(tmp_path / "b"), interrupt)
    module, loss_of = _toy()
    fit(module, loss_of, 32, _plan(tmp_path / "b"), on_save=lambda step: None)
    assert torch.equal(whole.weight, module.weight)
    assert torch.equal(whole.bias, module.bias)


def test_it_learns_and_logs(tmp_path):
    module, loss_of = _toy()
    before = loss_of(torch.arange(32), torch.Generator())[0].item()
    fit(module, loss_of, 32, _plan(tmp_path, steps=400), on_save=lambda step: None)
    assert loss_of(torch.arange(32), torch.Generator())[0].item() < before / 10
    rows = (tmp_path / "log.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0].startswith("stage,step,loss")
    assert [row.split(",")[1] for row in rows[1:4]] == ["4", "8", "12"]


def test_the_rate_warms_up_and_falls_to_two_percent(tmp_path):
    plan = _plan(tmp_path, steps=104)
    assert rate_at(0, plan) == pytest.approx(2.5e-3)
    assert rate_at(4, plan) == pytest.approx(1e-2)
    assert rate_at(54, plan) == pytest.approx(1e-2 * 0.51)
    assert rate_at(104, plan) == pytest.approx(2e-4)
