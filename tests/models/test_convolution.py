"""Convolutions of few pixels, against PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from library.models.convolution import MOST_PIXELS, small_convolution, speed_up_small


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 7)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_output_and_gradient(size, with_bias):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, *size, generator=draw, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 6, 3, 3, generator=draw, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    bias = torch.randn(4, generator=draw, dtype=torch.float64) if with_bias else None
    torch.testing.assert_close(small_convolution(x, weight, bias), F.conv2d(x, weight, bias, padding=1))
    assert torch.autograd.gradcheck(lambda x: small_convolution(x, weight, bias), (x,))


def test_only_small_pictures_and_fitting_convolutions_are_changed():
    model = nn.ModuleDict({"fits": nn.Conv2d(4, 4, 3, padding=1), "strided": nn.Conv2d(4, 4, 3, stride=2, padding=1)})
    model.requires_grad_(False)
    side = int(MOST_PIXELS**0.5)
    pictures = [torch.randn(1, 4, size, size, requires_grad=True) for size in (side, side + 1)]
    expected = [model["fits"](picture) for picture in pictures]
    speed_up_small(model)
    assert "forward" not in vars(model["strided"])
    small, large = (model["fits"](picture) for picture in pictures)
    assert "SmallConvolution" in str(small.grad_fn)
    assert "SmallConvolution" not in str(large.grad_fn)
    torch.testing.assert_close([small, large], expected)
