"""Changes built anew from their factors: products, gradients, what is kept for the backward pass, dropouts."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from library.lora_files.names.keys import Site, kind_of
from library.models.quantised import PACKINGS, quantise
from networks.algorithm import Base, ForwardContext, Size
from networks.arithmetic.dense import ChangeDropouts, multiply
from networks.loha import LoHa, LoHaOptions
from networks.lokr import LoKr, LoKrOptions

HOSTS = {
    "linear": lambda: nn.Linear(24, 16),
    "pointwise": lambda: nn.Conv2d(24, 16, 1),
    "conv": lambda: nn.Conv2d(24, 16, 3, stride=2, padding=1, bias=False),
}
KINDS = {
    "loha": LoHa(LoHaOptions()),
    "loha tucker": LoHa(LoHaOptions(use_tucker=True)),
    "lokr": LoKr(LoKrOptions()),
    "lokr factor": LoKr(LoKrOptions(factor=2)),
    "lokr both": LoKr(LoKrOptions(factor=4, decompose_both=True)),
    "lokr tucker": LoKr(LoKrOptions(factor=2, use_tucker=True)),
    "lokr full": LoKr(LoKrOptions(full_matrix=True)),
    "lokr unbalanced": LoKr(LoKrOptions(factor=2, unbalanced_factorization=True)),
}
SIZE = Size(1, 0.5)


def trained_adapter(algorithm, host, size=SIZE):
    """An adapter as if it had been trained, on a frozen host."""
    site = Site("unet", "a", "lora_unet_a", kind_of(host), 1, host.requires_grad_(False))
    adapter = algorithm.adapter(site, size, torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.3)
    return adapter


def base_of(host):
    return Base(host, host.forward, plain=True)


def inputs(host, dtype=torch.float32):
    return torch.randn(2, 5, 24, dtype=dtype) if isinstance(host, nn.Linear) else torch.randn(2, 24, 9, 7, dtype=dtype)


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_acts_and_learns_as_a_layer_with_its_delta(kind, host):
    host = host().double()
    adapter = trained_adapter(kind, host).double()
    x = inputs(host, torch.float64).requires_grad_()
    y = adapter(x, base_of(host), ForwardContext(multiplier=0.7))
    weight = host.weight + 0.7 * adapter.delta()
    if isinstance(host, nn.Linear):
        expected = F.linear(x, weight, host.bias)
    else:
        expected = F.conv2d(x, weight, host.bias, host.stride, host.padding)
    torch.testing.assert_close(y, expected)
    learned = [x, *adapter.parameters()]
    outer = torch.randn(y.shape, dtype=y.dtype)
    for ours, plain in zip(torch.autograd.grad(y, learned, outer), torch.autograd.grad(expected, learned, outer)):
        torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(adapter.norm(), adapter.delta().norm())


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_only_x_and_the_factors_are_kept_for_the_backward_pass(kind):
    host = nn.Linear(24, 16)
    adapter = trained_adapter(kind, host)
    x = inputs(host).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        multiply(x, adapter.form, list(adapter.parameters()), 1.0)
    assert {tensor.data_ptr() for tensor in kept} == {each.data_ptr() for each in (x, *adapter.parameters())}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_gradient_of_half_precision_inputs_reaches_fp32_factors(kind):
    host = nn.Linear(24, 16).bfloat16()
    adapter = trained_adapter(kind, host)
    x = inputs(host, torch.bfloat16).requires_grad_()
    y = adapter(x, base_of(host), ForwardContext())
    y.float().square().sum().backward()
    weight = host.weight.float() + adapter.delta()
    exact = F.linear(x.float(), weight, host.bias.float())
    expected = torch.autograd.grad(exact.square().sum(), list(adapter.parameters()))
    assert y.dtype == x.grad.dtype == torch.bfloat16
    for parameter, gradient in zip(adapter.parameters(), expected):
        assert parameter.grad.dtype == torch.float32
        assert (parameter.grad - gradient).norm() < 0.03 * gradient.norm()


def test_changes_that_half_precision_could_not_add_to_the_weight_act():
    host = nn.Linear(24, 16).bfloat16()
    with torch.no_grad():
        host.weight.fill_(1.0)
    adapter = trained_adapter(KINDS["lokr"], host)
    context = ForwardContext(multiplier=2.0**-12 / adapter.delta().abs().max().item())
    x = torch.zeros(1, 24, dtype=torch.bfloat16)
    x[0, 3], x[0, 4], host.bias = 64.0, -64.0, None  # the frozen part cancels out
    change = adapter.delta().detach() * context.multiplier
    assert torch.equal((host.weight + change.bfloat16()), host.weight)
    expected = change[:, 3] * 64 - change[:, 4] * 64
    torch.testing.assert_close(adapter(x, base_of(host), context)[0].float(), expected, rtol=0.03, atol=1e-4)


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
@pytest.mark.parametrize("kind", [KINDS["loha"], KINDS["lokr factor"]], ids=["loha", "lokr"])
def test_quantised_hosts(kind, host):
    host = host()
    packing = PACKINGS["int8"]
    quantise(host, packing, packing.pack(host.weight.detach()))
    adapter = trained_adapter(kind, host)
    x = inputs(host)
    expected = host(x) + multiply(x, adapter.form, list(adapter.parameters()), adapter.size.scale)
    torch.testing.assert_close(adapter(x, Base(host, host.forward, plain=False), ForwardContext()), expected)
    assert adapter.delta().shape == host.shape


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
def test_dropouts_act_on_the_change_alone_and_in_training_alone(host):
    host = host()
    x = inputs(host)
    frozen = host(x)
    for options in (LoHaOptions(rank_dropout=1.0), LoHaOptions(module_dropout=1.0)):
        adapter = trained_adapter(LoHa(options), host)
        assert torch.equal(adapter(x, base_of(host), ForwardContext()), frozen)
        adapter.eval()
        assert not torch.allclose(adapter(x, base_of(host), ForwardContext()), frozen)


def test_dropped_outputs_are_those_of_the_whole_batch_and_keep_the_mean():
    torch.manual_seed(0)
    for shape, axis in (((3, 2000), -1), ((2, 3, 2000), -1), ((2, 2000, 3, 2), 1)):
        kept = ChangeDropouts(outputs=0.25)(torch.ones(shape), axis).movedim(axis, 0).flatten(1)
        assert torch.equal(kept, kept[:, :1].expand_as(kept))
        torch.testing.assert_close(kept.unique(), torch.tensor([0.0, 1 / 0.75]))
        assert kept.mean().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_scaling_reaches_every_factor(kind):
    adapter = trained_adapter(kind, nn.Conv2d(24, 16, 3))
    before = adapter.delta()
    first = [parameter.clone() for parameter in adapter.parameters()]
    adapter.scale_delta(torch.tensor(0.3))
    torch.testing.assert_close(adapter.delta(), before * 0.3)
    assert not any(torch.equal(was, now) for was, now in zip(first, adapter.parameters()))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_file_with_another_alpha_keeps_its_effect(kind):
    saved = trained_adapter(kind, nn.Linear(24, 16), Size(1, 0.5))
    other = trained_adapter(kind, nn.Linear(24, 16), Size(1, 4.0))
    tensors = {name: tensor.detach().clone() for name, tensor in saved.tensors().items()}
    other.load(tensors)
    torch.testing.assert_close(other.delta(), saved.delta())
    assert other.tensors()["alpha"] == (1.0 if not kind_is_scaled(saved) else 4.0)


def kind_is_scaled(adapter):
    return adapter.form.scaled
