"""DyLoRA: what acts and what learns when a block is drawn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from networks.algorithm import ForwardContext, Size
from networks.build import build_network, check_network
from networks.dylora import DyLoRAAdapter
from networks.inject import hook

HOSTS = [(nn.Linear, (6, 8), (3, 5, 6)), (nn.Conv2d, (6, 8, 3), (2, 6, 5, 4))]


def adapter_on(kind, arguments, unit=2, rank=6):
    host = kind(*arguments).requires_grad_(False)
    adapter = DyLoRAAdapter(host, Size(rank, 3.0), unit, torch.Generator().manual_seed(0))
    with torch.no_grad():
        adapter.up.normal_(generator=torch.Generator().manual_seed(1))
    hook(host, adapter, ForwardContext())
    return host, adapter


@pytest.mark.parametrize(("kind", "arguments", "shape"), HOSTS)
def test_each_pass_trains_one_block_above_those_that_act(kind, arguments, shape):
    host, adapter = adapter_on(kind, arguments)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        y = host(x)
        grad_down, grad_up = torch.autograd.grad(y.square().sum(), (adapter.down, adapter.up))
        learns = [bool(rank.any()) for rank in grad_down.flatten(1)]
        assert learns == [bool(rank.any()) for rank in grad_up.flatten(1).t()]
        block = learns.index(True) // 2
        seen.add(block)
        assert learns == [index // 2 == block for index in range(6)]

        ranks = 2 * (block + 1)
        lower = (
            nn.Parameter(adapter.down[:ranks].detach().clone()),
            nn.Parameter(adapter.up[:, :ranks].detach().clone()),
        )
        product = (lower[1].flatten(1) @ lower[0].flatten(1)).view_as(host.weight)
        weight = host.weight + 3.0 / 6 * math.sqrt(6 / ranks) * product
        expected = torch.func.functional_call(kind(*arguments), {"weight": weight, "bias": host.bias}, (x,))
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
        for found, wanted in zip(
            (grad_down[ranks - 2 : ranks], grad_up[:, ranks - 2 : ranks]),
            torch.autograd.grad(expected.square().sum(), lower),
        ):
            kept = wanted[-2:] if wanted.shape[1:] == found.shape[1:] and len(wanted) == ranks else wanted[:, -2:]
            torch.testing.assert_close(found, kept, rtol=1e-4, atol=1e-4)
    assert seen == {0, 1, 2}


def test_all_ranks_act_outside_training():
    host, adapter = adapter_on(nn.Linear, (6, 8))
    adapter.eval()
    x = torch.randn(4, 6)
    torch.testing.assert_close(host(x), nn.functional.linear(x, host.weight + adapter.delta(), host.bias))


def test_blocks_are_drawn_alike():
    _, adapter = adapter_on(nn.Linear, (6, 8), unit=1, rank=4)
    torch.manual_seed(0)
    acting = torch.tensor([(adapter._drawn()[1] != 0).any(0).sum() for _ in range(800)])
    assert acting.bincount(minlength=5)[1:].tolist() == pytest.approx([200] * 4, abs=40)


def test_the_unit_must_divide_the_rank(tiny):
    config = NetworkConfig(network_module="networks.dylora", network_dim=6, network_args={"unit": 4})
    with pytest.raises(UserError, match=r"unit = 4 does not divide the rank 6.*Take 4 instead"):
        build_network(config, tiny().hosts, "sd1", seed=0)


def test_dropout_is_refused():
    with pytest.raises(UserError, match=r"network_dropout has no meaning for networks\.dylora"):
        check_network(NetworkConfig(network_module="networks.dylora", network_dropout=0.1))
