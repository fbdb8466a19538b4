"""The way past a frozen host: what is kept for the backward pass, and the frozen convolution's gradient."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from library.kernels.convolution import freeze_convolutions
from networks.algorithm import Base
from networks.arithmetic.side_path import SidePath, product, product_norm

HOSTS = [
    (nn.Linear(12, 9), (2, 5, 12)),
    (nn.Conv2d(6, 9, 1), (2, 6, 5, 4)),
    (nn.Conv2d(6, 9, 3, stride=2, padding=1), (2, 6, 9, 8)),
    (nn.Conv2d(6, 9, 3, padding=2, dilation=2, bias=False), (2, 6, 7, 8)),
]


def saved_by(compute):
    """Shapes of the tensors that autograd keeps for the backward pass, and the result."""
    shapes = []

    def keep(tensor):
        shapes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = compute()
    return shapes, result


def matrices(host, rank=3):
    kernel = () if isinstance(host, nn.Linear) else host.kernel_size
    inputs, outputs = host.weight.shape[1], host.weight.shape[0]
    down = torch.randn(rank, inputs, *kernel, generator=torch.Generator().manual_seed(1))
    up = torch.randn(outputs, rank, *[1] * len(kernel), generator=torch.Generator().manual_seed(2))
    return down, up.requires_grad_()


@pytest.mark.parametrize(("host", "shape"), HOSTS, ids=str)
@pytest.mark.parametrize("between", [None, lambda inner: inner * 2], ids=["straight", "between"])
def test_where_down_is_frozen_x_is_not_kept(host, shape, between):
    host = deepcopy(host).requires_grad_(False)
    freeze_convolutions(host)
    down, up = matrices(host)
    x = torch.randn(shape, requires_grad=True)
    base, path = Base(host, host.forward, plain=True), SidePath(host)
    shapes, y = saved_by(lambda: path(x, base, down, up, 0.5, between))
    sizes = {torch.Size(shape).numel() for shape in shapes}
    assert x.numel() not in sizes and y.numel() not in sizes
    rank_sized = y.numel() // host.weight.shape[0] * 3
    assert rank_sized in sizes
    shapes, _ = saved_by(lambda: path(x, base, down.clone().requires_grad_(), up, 0.5, between))
    assert x.numel() in {torch.Size(shape).numel() for shape in shapes}


@pytest.mark.parametrize(("host", "shape"), HOSTS, ids=str)
def test_gradients_with_frozen_down_are_those_of_the_formula(host, shape):
    host.requires_grad_(False)
    down, up = matrices(host)
    x = torch.randn(shape, requires_grad=True)
    weight = host.weight + 0.5 * product(down, up)
    if isinstance(host, nn.Linear):
        expected = F.linear(x, weight, host.bias)
    else:
        expected = F.conv2d(x, weight, host.bias, host.stride, host.padding, host.dilation)
    grad = torch.randn(expected.shape)
    of_formula = torch.autograd.grad(expected, (x, up), grad)
    y = SidePath(host)(x, Base(host, host.forward, plain=True), down, up, 0.5)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    for found, wanted in zip(torch.autograd.grad(y, (x, up), grad), of_formula):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("host", "shape"), HOSTS, ids=str)
def test_norm_is_that_of_the_product(host, shape):
    down, up = matrices(host)
    assert product(down, up).shape == host.weight.shape
    torch.testing.assert_close(product_norm(down, up), product(down, up).norm())
