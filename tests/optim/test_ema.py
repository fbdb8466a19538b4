from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from library.core.errors import UserError
from library.optim.ema import ExponentialAverage, decay_at
from library.optim.flat import FlatGroup


def groups(seed: int = 0) -> list[FlatGroup]:
    generator = torch.Generator().manual_seed(seed)
    return [
        FlatGroup(name, [nn.Parameter(torch.randn(3, 5, generator=generator))], 1.0) for name in ("unet", "textencoder")
    ]


def move(flat: list[FlatGroup], step: int) -> None:
    for group in flat:
        group.values[:15] += torch.randn(15, generator=torch.Generator().manual_seed(step))


def test_the_average_is_the_recursion_with_its_warm_up() -> None:
    flat = groups()
    ema = ExponentialAverage(flat, decay=0.6)
    expected = flat[0].values.double().numpy().copy()
    for step in range(12):
        move(flat, step)
        ema.update(step)
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * flat[0].values.double().numpy()
    with ema.swapped():
        np.testing.assert_allclose(
            flat[0].parameters[0].detach().numpy(), expected[:15].reshape(3, 5), rtol=1e-5, atol=1e-6
        )


def test_the_decay_warms_up() -> None:
    assert [decay_at(step, 0.999) for step in (0, 8, 10**6)] == [0.1, 0.5, 0.999]


def test_swapping_back_is_exact_even_after_an_error() -> None:
    flat = groups()
    ema = ExponentialAverage(flat, decay=0.9)
    move(flat, 1)
    before = flat[0].values.clone()
    with pytest.raises(RuntimeError), ema.swapped():
        assert not torch.equal(flat[0].values, before)
        raise RuntimeError
    assert torch.equal(flat[0].values, before)


def test_a_resumed_average_is_the_uninterrupted_one() -> None:
    flat = groups()
    ema = ExponentialAverage(flat, decay=0.9)
    for step in range(4):
        move(flat, step)
        ema.update(step)
    again = groups(seed=1)
    resumed = ExponentialAverage(again, decay=0.9)
    for ours, theirs in zip(again, flat, strict=True):
        ours.values.copy_(theirs.values)
    resumed.load_state(ema.state())
    for step in range(4, 8):
        for one, average in ((flat, ema), (again, resumed)):
            move(one, step)
            average.update(step)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(ema.averages, resumed.averages, strict=True))


def test_the_average_of_other_groups_is_refused() -> None:
    with pytest.raises(UserError, match="'unet'"):
        ExponentialAverage(groups(), 0.9).load_state({"unet": torch.zeros(3)})
