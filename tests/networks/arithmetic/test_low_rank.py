"""The fused linear layer with side path, against autograd's own derivative of the formula."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from networks.arithmetic.low_rank import low_rank_linear

N, IN, OUT, RANK, SCALE = 6, 5, 4, 3, 0.37


def tensors(dtype=torch.float64, master=None, rows=(N,)):
    draw = torch.Generator().manual_seed(0)
    shapes = [(*rows, IN), (OUT, IN), (OUT,), (RANK, IN), (OUT, RANK)]
    x, weight, bias, down, up = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes)
    x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    return x.requires_grad_(), weight, bias, *(m.to(master or dtype).requires_grad_() for m in (down, up))


def formula(x, weight, bias, down, up, scale):
    y = x @ (weight + scale * up.to(x.dtype) @ down.to(x.dtype)).T
    return y if bias is None else y + bias


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("rows", [(N,), (2, 3), (2, 1, 3)])
def test_gradients(with_bias, rows):
    x, weight, bias, down, up = tensors(rows=rows)
    bias = bias if with_bias else None
    torch.testing.assert_close(
        low_rank_linear(x, weight, bias, down, up, SCALE), formula(x, weight, bias, down, up, SCALE)
    )
    assert torch.autograd.gradcheck(lambda x, d, u: low_rank_linear(x, weight, bias, d, u, SCALE), (x, down, up))


@pytest.mark.parametrize("frozen", [0, 3, 4])
def test_only_what_needs_a_gradient_gets_one(frozen):
    arguments = list(tensors())
    arguments[frozen].requires_grad_(False)
    wanted = [tensor for tensor in arguments if tensor.requires_grad]
    loss, reference = (f(*arguments, SCALE).square().sum() for f in (low_rank_linear, formula))
    for mine, theirs in zip(torch.autograd.grad(loss, wanted), torch.autograd.grad(reference, wanted)):
        torch.testing.assert_close(mine, theirs)


def test_half_precision_layers_train_fp32_matrices():
    x, weight, bias, down, up = tensors(torch.bfloat16, master=torch.float32, rows=(64,))
    y = low_rank_linear(x, weight, bias, down, up, SCALE)
    assert y.dtype == torch.bfloat16
    gradients = torch.autograd.grad(y.float().square().sum(), (x, down, up))
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16, torch.float32, torch.float32]
    exact = [tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in (x, weight, bias, down, up)]
    wanted = [exact[0], exact[3], exact[4]]
    expected = torch.autograd.grad(formula(*exact, SCALE).square().sum(), wanted)
    for mine, reference in zip(gradients, expected):
        assert (mine.double() - reference).norm() < 0.02 * reference.norm()


def test_transposed_input_and_checkpointing():
    x, weight, bias, down, up = tensors(rows=(2, 3))
    turned = x.detach().transpose(0, 1).requires_grad_()
    straight = turned.detach().contiguous().requires_grad_()
    plain = low_rank_linear(straight, weight, bias, down, up, SCALE).square().sum()
    again = checkpoint(low_rank_linear, turned, weight, bias, down, up, SCALE, use_reentrant=False).square().sum()
    first = torch.autograd.grad(plain, (straight, down, up))
    second = torch.autograd.grad(again, (turned, down, up))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_no_gradient_no_graph():
    x, weight, bias, down, up = tensors()
    with torch.no_grad():
        y = low_rank_linear(x, weight, bias, down, up, SCALE)
    assert not y.requires_grad
    torch.testing.assert_close(y, F.linear(x, weight, bias) + SCALE * (x @ down.T @ up.T))
