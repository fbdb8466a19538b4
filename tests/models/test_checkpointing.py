"""What is recomputed in the backward pass: the same gradients, bit for bit, and fewer bytes kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from library.models.checkpointing import Recomputation, checkpoint_unet, unpack


def bytes_kept(attached, monkeypatch):
    """What autograd keeps of a prediction, without the weights."""
    unet = attached.model.hosts(["unet"])["unet"]
    frozen = {parameter.untyped_storage().data_ptr() for parameter in (*unet.parameters(), *attached.parameters)}
    kept = {}

    def count(tensor):
        if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in frozen:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    original = Recomputation.pack
    with monkeypatch.context() as patched, saved_tensors_hooks(count, lambda tensor: tensor):
        patched.setattr(Recomputation, "pack", lambda self, tensor: count(original(self, tensor)))
        predicted = attached.predict()
    assert predicted.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("dropout", [None, 0.3])
@pytest.mark.parametrize("selective", [True, False])
@pytest.mark.parametrize(("family", "dtype"), [("sd15", torch.float32), ("sdxl", torch.bfloat16)])
def test_gradients_are_bitwise_those_of_plain_passes(tiny, load, attach, family, dtype, selective, dropout):
    plain, checkpointed = (load(tiny(family, "folder"), dtype) for _ in range(2))
    checkpointed.enable_gradient_checkpointing(selective, random=dropout is not None)
    found, expected = (attach(model, dropout).gradients() for model in (checkpointed, plain))
    assert all(torch.equal(mine, reference) for mine, reference in zip(found, expected, strict=True))


@pytest.mark.parametrize(("selective", "share"), [(True, 0.75), (False, 0.3)])
def test_less_is_kept(tiny, load, attach, monkeypatch, selective, share):
    plain, checkpointed = (load(tiny("sdxl", "folder")) for _ in range(2))
    checkpointed.enable_gradient_checkpointing(selective, random=False)
    kept, usual = (bytes_kept(attach(model), monkeypatch) for model in (checkpointed, plain))
    assert kept < share * usual


def test_without_random_numbers_the_generator_is_left_alone(tiny, load, attach, monkeypatch):
    def refused(*arguments):
        raise AssertionError("asked for the generator's state")

    monkeypatch.setattr(torch, "get_rng_state", refused)
    for selective in (True, False):
        model = load(tiny("sd15", "folder"))
        model.enable_gradient_checkpointing(selective, random=False)
        assert attach(model).gradients()
    model = load(tiny("sd15", "folder"))
    model.enable_gradient_checkpointing(selective=False, random=True)
    with pytest.raises(AssertionError, match="generator's state"):
        attach(model).gradients()


def test_pictures_and_frozen_predictions_remember_nothing(tiny, load, monkeypatch):
    monkeypatch.setattr(Recomputation, "pack", lambda self, tensor: pytest.fail("kept something"))
    model = load(tiny("sd15", "folder"))
    model.enable_gradient_checkpointing(selective=True, random=False)
    with torch.no_grad():
        model.predict(torch.ones(1, 4, 8, 8), torch.tensor([10]), model.encode_prompts(["x"]), torch.ones(1, 6))


class Chain(nn.Module):
    """Norm, activation and two products that read its output, one of them turned."""

    def __init__(self, in_place):
        super().__init__()
        self.norm, self.act = nn.LayerNorm(6), nn.SiLU()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(5, 3)
        self.in_place = in_place

    def forward(self, x_BTD):
        hidden = self.act(self.norm(x_BTD))
        if self.in_place:
            hidden = hidden.mul_(2)
        return self.first(hidden).sum() + self.second(hidden.transpose(1, 2)).square().sum()


@pytest.mark.parametrize("in_place", [False, True])
def test_views_chains_and_values_changed_in_place(in_place):
    chain = Chain(in_place).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    wanted = [x, *chain.parameters()]
    expected = torch.autograd.grad(chain(x), wanted)
    checkpoint_unet(chain, selective=True, random=False)
    found = torch.autograd.grad(chain(x), wanted)
    assert all(torch.equal(mine, reference) for mine, reference in zip(found, expected, strict=True))


def test_an_output_is_computed_again_once_for_all_who_kept_it():
    calls = []

    def doubled(x):
        calls.append(x)
        return x * 2

    recomputation = Recomputation()
    recomputation._active = True
    output = recomputation.cheap(doubled, torch.ones(3, 4, requires_grad=True))
    kept = [recomputation.pack(output), recomputation.pack(output.t()), recomputation.pack(output[1:])]
    assert not any(isinstance(each, torch.Tensor) for each in kept)
    again = [unpack(each) for each in kept]
    assert len(calls) == 2
    for made, reference in zip(again, (output, output.t(), output[1:]), strict=True):
        assert torch.equal(made, reference) and made.stride() == reference.stride()
