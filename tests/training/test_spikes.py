"""A spike of the loss is told with its pictures; the ordinary ups and downs of a diffusion loss are not."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from library.training.spikes import ENOUGH, Spikes

TIMESTEPS, LOSSES = (0, 50, 200, 400, 600, 800, 999), (0.95, 0.36, 0.13, 0.05, 0.02, 0.008, 0.004)
"""What Stable Diffusion 1.5 comes to, roughly, by timestep."""


def healthy(steps: int, batch: int) -> np.ndarray:
    """Mean losses (steps,) over batches at uniform timesteps, with the scatter between pictures."""
    generator = np.random.default_rng(batch)
    t = generator.integers(0, 1000, (steps, batch))
    scatter = 0.5 * generator.standard_normal((steps, batch))
    return np.exp(np.interp(t, TIMESTEPS, np.log(LOSSES)) + scatter).mean(1)


def batch(*images: str) -> SimpleNamespace:
    return SimpleNamespace(images=list(images), timesteps=torch.arange(len(images)) * 100 + 7)


@pytest.mark.parametrize("size", [1, 4, 16, 64])
def test_a_healthy_run_has_few_false_alarms(size: int) -> None:
    spikes, steps = Spikes(), 4000
    for step, loss in enumerate(healthy(steps, size)):
        spikes.watch(step, float(loss), [])
    assert len(spikes.steps) <= steps / 1000


def test_a_spike_is_told_with_its_pictures_and_what_is_usual() -> None:
    spikes, losses = Spikes(), healthy(300, 4).tolist()
    for step, loss in enumerate(losses, start=1):
        assert spikes.watch(step, loss, [batch("fine.png")]) is None
    told = spikes.watch(301, 5.0, [batch("a.png", "b.png"), batch("c.png")])
    usual = sorted(losses[-200:])
    assert (
        told is not None and f"step 301: the loss is 5, where {math.sqrt(usual[99] * usual[100]):.3g} is usual" in told
    )
    assert "a.png at timestep 7; b.png at timestep 107; c.png at timestep 7." in told


def test_one_spike_does_not_hide_the_next() -> None:
    spikes = Spikes()
    for step, loss in enumerate(healthy(ENOUGH, 4)):
        spikes.watch(step, float(loss), [])
    found = [spikes.watch(ENOUGH + step, 9.0, [batch("bad.png", f"{step}.png")]) for step in range(20)]
    assert None not in found
    summary = spikes.summary()
    assert summary is not None and summary.startswith("20 spikes of the loss, at step 100, 101, 102")
    assert "suspicious, and so are their captions: bad.png (20)." in summary


def test_nothing_is_told_before_enough_is_known_or_of_what_is_no_loss() -> None:
    spikes, generator = Spikes(), random.Random(1)
    for step in range(ENOUGH - 1):
        assert spikes.watch(step, generator.choice([1e-3, 1.0, 1e3, math.nan, math.inf, 0.0]), []) is None
    for value in (math.nan, math.inf, 0.0):
        assert spikes.watch(200, value, []) is None
    assert spikes.summary() is None


def test_a_single_spike_makes_no_picture_suspicious() -> None:
    spikes = Spikes()
    for step in range(ENOUGH):
        spikes.watch(step, 0.1, [])
    assert spikes.watch(ENOUGH, 0.19, [batch("a.png")]) is None, "not even twice the usual"
    assert spikes.watch(ENOUGH + 1, 0.21, [batch("a.png")]) is not None
    assert "1 spike of the loss, at step 101. No picture was in several" in (spikes.summary() or "")
