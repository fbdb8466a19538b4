"""LoRA's mathematics: initial values, scale, dropouts, files."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from library.lora_files.names.keys import Site
from networks.algorithm import Base, ForwardContext, Size
from networks.inject import hook
from networks.lora import Dropouts, LoRA, LoRAAdapter, LoRAOptions, drop

SIZE, NO_DROPOUT = Size(4, 2.0), Dropouts()


def adapter_on(module, size=SIZE, dropouts=NO_DROPOUT, seed=0):
    module.requires_grad_(False)
    adapter = LoRAAdapter(module, size, dropouts, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        adapter.up.normal_(generator=torch.Generator().manual_seed(seed + 1))
    context = ForwardContext()
    hook(module, adapter, context)
    return adapter, context


@pytest.mark.parametrize(
    ("network_dropout", "options", "expected"),
    [(0.0, {}, False), (0.1, {}, True), (0.0, {"rank_dropout": 0.1}, True), (0.0, {"module_dropout": 0.0}, False)],
)
def test_random_numbers_are_drawn_where_a_dropout_is_on(network_dropout, options, expected):
    assert LoRA(LoRAOptions(**options), network_dropout).draws_random == expected


CONVOLUTIONS = [
    nn.Conv2d(6, 8, 3, padding=1),
    nn.Conv2d(6, 8, 3, stride=2, padding=1),
    nn.Conv2d(6, 8, 1),
    nn.Conv2d(6, 8, 3, padding=2, dilation=2, bias=False),
]


@pytest.mark.parametrize("host", CONVOLUTIONS, ids=str)
def test_convolution_acts_as_its_delta(host):
    host = nn.Conv2d(
        **{
            name: getattr(host, name)
            for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
        }
    )
    adapter, context = adapter_on(host)
    context.multiplier = 0.5
    x = torch.randn(2, 6, 9, 7)
    weight = host.weight + 0.5 * adapter.delta()
    expected = F.conv2d(x, weight, host.bias, host.stride, host.padding, host.dilation)
    torch.testing.assert_close(host(x), expected, rtol=1e-4, atol=1e-5)


def test_delta_of_a_convolution_is_the_composition_of_its_two():
    adapter, _ = adapter_on(nn.Conv2d(3, 5, 3), Size(2, 4.0))
    expected = torch.einsum("or,rihw->oihw", adapter.up[:, :, 0, 0], adapter.down) * (4.0 / 2)
    torch.testing.assert_close(adapter.delta(), expected)


def test_linear_acts_as_the_formula():
    host = nn.Linear(6, 8)
    adapter, context = adapter_on(host, Size(4, 2.0))
    context.multiplier = 0.7
    x = torch.randn(3, 5, 6)
    expected = F.linear(x, host.weight, host.bias) + 0.7 * (2.0 / 4) * x @ adapter.down.T @ adapter.up.T
    torch.testing.assert_close(host(x), expected)


def test_initial_values_are_kaiming_uniform_and_zero():
    host = nn.Conv2d(40, 30, 3)
    adapter = LoRAAdapter(host, Size(64, 1.0), Dropouts(), torch.Generator().manual_seed(0))
    bound = 1 / math.sqrt(40 * 9)  # gain sqrt(2 / (1 + 5)) times sqrt(3 / fan in)
    assert not adapter.up.any()
    assert adapter.down.abs().max() <= bound
    assert adapter.down.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_rank_dropout_drops_ranks_of_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    for shape, rank_axis in (((400, 20), 1), ((400, 7, 20), 2), ((400, 20, 3, 2), 1)):
        kept = drop(torch.ones(shape), Dropouts(rank=0.25))
        per_rank = kept.movedim(rank_axis, 1).flatten(2) if len(shape) > 2 else kept.unsqueeze(2)
        assert torch.equal(per_rank, per_rank[..., :1].expand_as(per_rank))
        torch.testing.assert_close(kept.unique(), torch.tensor([0.0, 1 / 0.75]))
        assert kept.mean().item() == pytest.approx(1.0, abs=0.03)


def test_module_dropout_drops_all_or_nothing_unscaled():
    torch.manual_seed(0)
    draws = torch.stack([drop(torch.ones(2, 3), Dropouts(module=0.3)) for _ in range(500)]).flatten(1)
    assert torch.equal(draws, draws[:, :1].expand_as(draws))
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert draws.mean().item() == pytest.approx(0.7, abs=0.06)


def test_neuron_dropout_drops_values():
    torch.manual_seed(0)
    values = drop(torch.ones(100, 50), Dropouts(neuron=0.4))
    assert values.mean().item() == pytest.approx(1.0, abs=0.03)
    assert (values == 0).float().mean().item() == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize("host", [nn.Linear(6, 8), nn.Conv2d(6, 8, 3, padding=1)], ids=str)
def test_dropout_of_everything_leaves_the_frozen_module(host):
    host = nn.Linear(6, 8) if isinstance(host, nn.Linear) else nn.Conv2d(6, 8, 3, padding=1)
    x = torch.randn(2, 6) if isinstance(host, nn.Linear) else torch.randn(2, 6, 5, 5)
    frozen = host(x).detach()
    for dropouts in (Dropouts(neuron=1.0), Dropouts(rank=1.0), Dropouts(module=1.0)):
        host.__dict__.pop("forward", None)
        adapter, _ = adapter_on(host, dropouts=dropouts)
        torch.testing.assert_close(host(x), frozen)
        adapter.eval()
        assert not torch.allclose(host(x), frozen)


def test_another_alpha_in_the_file_keeps_the_effect():
    first, _ = adapter_on(nn.Linear(6, 8), Size(4, 2.0))
    other = LoRAAdapter(nn.Linear(6, 8), Size(4, 16.0), Dropouts(), torch.Generator())
    other.load(first.tensors())
    torch.testing.assert_close(other.delta(), first.delta())
    assert other.tensors()["alpha"] == 16.0


def test_file_without_alpha_has_scale_one():
    adapter, _ = adapter_on(nn.Linear(6, 8), Size(4, 4.0))
    tensors = {name: tensor for name, tensor in adapter.tensors().items() if name != "alpha"}
    assert LoRA(LoRAOptions()).size_in_file(tensors) == Size(4, 4.0)
    other = LoRAAdapter(nn.Linear(6, 8), Size(4, 1.0), Dropouts(), torch.Generator())
    other.load(tensors)
    torch.testing.assert_close(other.delta(), adapter.up @ adapter.down)


def test_tensors_are_those_of_sd_scripts():
    adapter, _ = adapter_on(nn.Conv2d(6, 8, 3), Size(4, 2.0))
    shapes = {name: tuple(tensor.shape) for name, tensor in adapter.tensors().items()}
    assert shapes == {"lora_down.weight": (4, 6, 3, 3), "lora_up.weight": (8, 4, 1, 1), "alpha": ()}


def test_a_module_that_is_not_plain_is_called_through():
    class Quantised(nn.Linear):
        def forward(self, x):
            return super().forward(x).round()

    host = Quantised(6, 8)
    adapter, _ = adapter_on(host)
    x = torch.randn(3, 6)
    expected = F.linear(x, host.weight, host.bias).round() + adapter.size.scale * x @ adapter.down.T @ adapter.up.T
    torch.testing.assert_close(host(x), expected)


def test_adapters_lie_on_one_another():
    host = nn.Linear(6, 8)
    first, _ = adapter_on(host, seed=0)
    second, _ = adapter_on(host, seed=5)
    x = torch.randn(3, 6)
    expected = F.linear(x, host.weight + first.delta() + second.delta(), host.bias)
    torch.testing.assert_close(host(x), expected)


def test_an_adapter_is_built_on_its_own_generator():
    site = Site("unet", "a", "lora_unet_a", "linear", 1, nn.Linear(6, 8))
    built = LoRA(LoRAOptions()).adapter(site, Size(2, 1.0), torch.Generator().manual_seed(3))
    torch.manual_seed(0)
    again = LoRA(LoRAOptions()).adapter(site, Size(2, 1.0), torch.Generator().manual_seed(3))
    assert torch.equal(built.down, again.down)
    base = Base(site.module, site.module.forward, plain=True)
    x = torch.randn(2, 6)
    torch.testing.assert_close(built(x, base, ForwardContext()), site.module(x))


@pytest.mark.parametrize("host", [nn.Linear(30, 20), nn.Conv2d(6, 8, 3)], ids=str)
def test_norm_is_that_of_the_delta(host):
    adapter, _ = adapter_on(host, Size(5, 3.0))
    torch.testing.assert_close(adapter.norm(), adapter.delta().norm())
    with torch.no_grad():
        adapter.up.zero_()
    assert adapter.norm() == 0
