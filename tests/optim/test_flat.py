from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from library.optim.flat import BLOCK, FlatGroup, flatten, gradient_norm
from tests.optim.conftest import Group


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Flatten(), nn.Linear(5 * 16, 7), nn.Tanh(), nn.Linear(7, 2))


def test_values_stay_and_every_tensor_begins_a_block() -> None:
    module = network()
    before = copy.deepcopy(module.state_dict())
    (group,) = flatten([Group("unet", list(module.parameters()), 1e-3)])
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    starts = [parameter.storage_offset() for parameter in group.parameters]
    assert all(start % BLOCK == 0 for start in starts)
    assert starts == sorted(set(starts))
    assert group.values.numel() % BLOCK == 0


def test_parameters_and_gradients_are_windows() -> None:
    module = network()
    group = FlatGroup("unet", list(module.parameters()), 1e-3)
    with torch.no_grad():
        group.flat_parameter.add_(0.01)
    module(torch.randn(2, 3, 4, 4)).square().sum().backward()
    for parameter in module.parameters():
        start, size = parameter.storage_offset(), parameter.numel()
        assert parameter.data_ptr() == group.values[start:].data_ptr()
        assert torch.equal(parameter.flatten(), group.values[start : start + size])
        assert parameter.grad is not None
        assert torch.equal(parameter.grad.flatten(), group.gradients[start : start + size])
        assert parameter.grad.abs().sum() > 0
    assert group.flat_parameter.grad is not None
    assert group.flat_parameter.grad.data_ptr() == group.gradients.data_ptr()


@pytest.mark.parametrize("checkpointed", [False, True])
def test_accumulated_gradients_are_those_of_plain_parameters(checkpointed: bool) -> None:
    plain = network()
    module = copy.deepcopy(plain)
    groups = flatten([Group("unet", list(module.parameters()), 1e-3)])
    for step in range(3):
        plain.zero_grad()
        groups[0].zero_grad()
        for micro in range(2):
            x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(10 * step + micro))
            plain(x).square().sum().backward()
            y = checkpoint(module, x, use_reentrant=False) if checkpointed else module(x)
            y.square().sum().backward()
        for ours, theirs in zip(module.parameters(), plain.parameters(), strict=True):
            assert torch.equal(ours.grad, theirs.grad)  # type: ignore[arg-type]
        with torch.no_grad():
            groups[0].flat_parameter.sub_(0.01 * groups[0].gradients)
            for parameter in plain.parameters():
                parameter.sub_(0.01 * parameter.grad)  # type: ignore[operator]


def test_norm_and_clipping_are_those_of_torch() -> None:
    plain = network()
    module = copy.deepcopy(plain)
    parameters = list(module.parameters())
    groups = flatten([Group("unet", parameters[:2], 1e-3), Group("textencoder", parameters[2:], 1e-3)])
    x = torch.randn(4, 3, 4, 4)
    plain(x).square().sum().backward()
    module(x).square().sum().backward()
    for maximum in (1e-2, 1e6):
        norm = gradient_norm(groups)
        groups.clip(norm, maximum)
        expected = nn.utils.clip_grad_norm_(plain.parameters(), maximum)
        torch.testing.assert_close(norm, expected)
        for ours, theirs in zip(parameters, plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)


def test_padding_stays_zero() -> None:
    group = FlatGroup("unet", [nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(300))], 1e-3)
    optimizer = torch.optim.AdamW([group.flat_parameter], lr=0.1, weight_decay=0.1)
    group.parameters[1].square().sum().backward()
    optimizer.step()
    assert torch.count_nonzero(group.values[5:BLOCK]) == 0
    assert torch.count_nonzero(group.values[BLOCK + 300 :]) == 0


def test_groups_are_windows_of_one_buffer() -> None:
    """So processes sum one tensor; further numbers ride along behind the gradients."""
    parameters = [nn.Parameter(torch.full(shape, float(n))) for n, shape in enumerate([(5,), (3, 100), (256,)])]
    groups = flatten([Group("unet", parameters[:2], 1.0), Group("textencoder", parameters[2:], 1.0)])
    assert [group.values.numel() for group in groups] == [3 * BLOCK, BLOCK]
    (2 * parameters[0].sum() + 3 * parameters[2].sum()).backward()
    groups.extra[0] = 7.0
    groups.summed.mul_(2)
    assert torch.equal(groups[0].gradients, torch.cat([torch.full((5,), 4.0), torch.zeros(3 * BLOCK - 5)]))
    assert torch.equal(groups[1].gradients, torch.full((BLOCK,), 6.0))
    assert groups.extra[0] == 14
    assert torch.equal(groups.values, torch.cat([group.values for group in groups]))
    groups.zero_grad()
    assert all(parameter.grad.abs().sum() == 0 for parameter in (parameters[0], parameters[2]))
    assert groups.extra[0] == 14


def test_a_parameter_in_two_groups_is_our_bug() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    with pytest.raises(AssertionError, match="two groups"):
        flatten([Group("unet", [parameter], 1.0), Group("textencoder", [parameter], 1.0)])
