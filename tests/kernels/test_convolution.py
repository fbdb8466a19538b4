"""Convolutions of few pixels, against PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from library.kernels import convolution
from library.kernels.build import library
from library.kernels.convolution import MOST_PIXELS, Conv2d, convolution_as_product, freeze_convolutions, frozen_conv2d

needs_kernel = pytest.mark.skipif(library() is None, reason="without the kernels all are the library's")


@pytest.mark.parametrize("side", [3, 1])
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 7)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_output_and_gradient_of_the_product(side, size, with_bias, monkeypatch):
    """In fp64, with PyTorch's product in place of the kernel's."""
    monkeypatch.setattr(
        convolution, "sum_of_products", lambda factors, bias_M=None: F.linear(factors[0], factors[1].t(), bias_M)
    )
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, *size, generator=draw, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 6, side, side, generator=draw, dtype=torch.float64).contiguous(
        memory_format=torch.channels_last
    )
    bias = torch.randn(4, generator=draw, dtype=torch.float64) if with_bias else None
    torch.testing.assert_close(convolution_as_product(x, weight, bias), F.conv2d(x, weight, bias, padding=side // 2))
    assert torch.autograd.gradcheck(lambda x: convolution_as_product(x, weight, bias), (x,))


@pytest.mark.parametrize("settings", [{"padding": 1}, {"stride": 2}, {"padding": 2, "dilation": 2}], ids=str)
def test_output_and_gradient(settings):
    like = nn.Conv2d(3, 4, 3, **settings)
    weight, bias = torch.randn(5, 3, 3, 3, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    x = torch.randn(2, 3, 8, 7, dtype=torch.float64, requires_grad=True)
    assert torch.equal(frozen_conv2d(x, weight, bias, like), F.conv2d(x, weight, bias, **settings))
    assert torch.autograd.gradcheck(lambda x: frozen_conv2d(x, weight, bias, like), (x,))


def test_a_frozen_model_keeps_no_input_and_computes_the_same():
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 1)
    )
    model.append(nn.Conv2d(4, 4, 3, groups=2)).requires_grad_(False)
    x = torch.randn(1, 4, 9, 9, requires_grad=True)
    expected = model(x)
    (gradient,) = torch.autograd.grad(expected.square().sum(), x)
    freeze_convolutions(model)
    assert [type(each) is Conv2d for each in model] == [True, False, True, True, False]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.shape) or tensor, lambda tensor: tensor
    ):
        y = model(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad(y.square().sum(), x)[0], gradient)
    assert x.shape not in kept


@needs_kernel
def test_small_pictures_in_bf16_are_computed_as_products():
    like = nn.Conv2d(4, 6, 3, padding=1).bfloat16().requires_grad_(False)
    side = int(MOST_PIXELS**0.5)
    small, large = (torch.randn(1, 4, size, size, requires_grad=True).bfloat16() for size in (side, side + 1))
    outputs = [frozen_conv2d(x, like.weight, like.bias, like) for x in (small, large)]
    names = [str(output.grad_fn) for output in outputs]
    assert "_FrozenConvolution" not in names[0] and "_FrozenConvolution" in names[1]
    for x, output in zip((small, large), outputs):
        exact = F.conv2d(x.double(), like.weight.double(), like.bias.double(), padding=1)
        assert (output - exact).norm() < 0.005 * exact.norm()


@needs_kernel
def test_an_output_may_be_added_to_in_place():
    like = nn.Conv2d(4, 6, 1).bfloat16().requires_grad_(False)
    x = torch.randn(1, 4, 3, 3).bfloat16().requires_grad_()
    y = frozen_conv2d(x, like.weight, like.bias, like)
    expected = y.detach() + 1
    assert torch.equal(y.add_(1), expected)
    y.sum().backward()
    torch.testing.assert_close(x.grad, like.weight.sum(0)[None].expand(1, 4, 3, 3))


def test_a_weight_that_learns_gets_its_gradient():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1))
    freeze_convolutions(model)
    model(torch.randn(1, 4, 5, 5)).sum().backward()
    assert model[0].weight.grad is not None
