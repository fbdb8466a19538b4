"""HRA against reflections one after the other."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from networks.algorithm import Base, ForwardContext
from networks.build import build_network
from networks.hra import HRAAdapter


def reflections(directions_IR):
    """H₁ ... H_r, fp64."""
    product = torch.eye(len(directions_IR), dtype=torch.float64)
    for u in directions_IR.double().t():
        product = product @ (torch.eye(len(u), dtype=torch.float64) - 2 * torch.outer(u, u) / u.dot(u))
    return product


def adapter_of(layer, rank=6):
    layer.requires_grad_(False)
    adapter = HRAAdapter(layer, rank, torch.Generator().manual_seed(1))
    with torch.no_grad():
        adapter.hra_u.add_(torch.randn(adapter.hra_u.shape, generator=torch.Generator().manual_seed(2)), alpha=0.3)
    return adapter


def test_a_linear_layer_is_multiplied_by_the_reflections():
    layer = nn.Linear(12, 7)
    adapter, x = adapter_of(layer), torch.randn(2, 5, 12)
    turned = layer.weight.double() @ reflections(adapter.hra_u)
    torch.testing.assert_close(adapter.delta().double(), turned - layer.weight.double(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.linalg.svdvals(turned), torch.linalg.svdvals(layer.weight.double()))
    y = adapter(x, Base(layer, layer.forward, True), ForwardContext())
    torch.testing.assert_close(y.double(), F.linear(x.double(), turned, layer.bias.double()), rtol=1e-4, atol=1e-5)


def test_a_convolution_is_turned_in_its_channels():
    layer = nn.Conv2d(8, 5, 3, stride=2, padding=1)
    adapter, x = adapter_of(layer), torch.randn(2, 8, 6, 6)
    turned = torch.einsum("oihw,ij->ojhw", layer.weight.double(), reflections(adapter.hra_u))
    torch.testing.assert_close(adapter.delta().double(), turned - layer.weight.double(), rtol=1e-4, atol=1e-6)
    y = adapter(x, Base(layer, layer.forward, True), ForwardContext(multiplier=0.4))
    mixed = layer.weight.double() + 0.4 * (turned - layer.weight.double())
    expected = F.conv2d(x.double(), mixed, layer.bias.double(), 2, 1)
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_the_reflections():
    layer = nn.Linear(6, 4).double()
    adapter = adapter_of(layer, rank=4).double()
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    base = Base(layer, layer.forward, True)
    assert torch.autograd.gradcheck(
        lambda x, u: _with(adapter, u)(x, base, ForwardContext()), (x, adapter.hra_u.detach().requires_grad_())
    )


def _with(adapter, directions):
    def forward(*arguments):
        return torch.func.functional_call(adapter, {"hra_u": directions}, arguments)

    return forward


def test_an_odd_number_of_reflections_is_refused(tiny):
    with pytest.raises(UserError, match="network_dim 3 must be even"):
        build_network(NetworkConfig(network_module="networks.hra", network_dim=3), tiny().hosts, "sd1", seed=0)
