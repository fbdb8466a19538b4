"""Packed weights against independent arithmetic, and layers and whole models with them against plain ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from library.core.errors import UserError
from library.models import weights as loading
from library.models.quantised import (
    PACKINGS,
    QuantisedConv2d,
    QuantisedLinear,
    quantisable,
    quantise,
    unpacked_weight,
)
from networks.files.merge import merge

NAMES = sorted(PACKINGS)
ERROR = {"int8": 0.012, "fp8": 0.03, "nf4": 0.11}
"""Largest error of normally distributed weights, as a share of their norm."""

NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
"""Dettmers et al. 2023, appendix E."""


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.03


def unpacked(name, weight, dtype=torch.float32):
    return PACKINGS[name].unpack(PACKINGS[name].pack(weight), weight.shape, dtype)


@pytest.mark.parametrize("shape", [(32, 128), (16, 24, 3, 3)])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_unpacked_is_near_what_was_packed(name, shape):
    weight = normal(*shape)
    again = unpacked(name, weight)
    assert again.shape == weight.shape
    assert (again - weight).norm() < ERROR[name] * weight.norm()
    assert (again - weight).norm() > ERROR[name] / 4 * weight.norm()
    for half in (torch.bfloat16, torch.float16):
        close = unpacked(name, weight, half)
        assert close.dtype == half
        assert (close.float() - again).norm() < 0.005 * weight.norm()


def test_int8_rounds_to_the_nearest_of_255_steps_in_each_row():
    weight = torch.tensor([[1.27, 0.004, -0.016, 0.5], [-12.7, 0.06, 0.04, 0.0]])
    packed = PACKINGS["int8"].pack(weight)
    assert packed.values.tolist() == [[127, 0, -2, 50], [-127, 1, 0, 0]]
    torch.testing.assert_close(packed.scale, torch.tensor([[0.01], [0.1]]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_what_is_unpacked_in_half_precision_is_rounded_once(name, dtype):
    values, scale = packed = PACKINGS[name].pack(normal(48, 16, 3, 3))
    exact = values.double() * scale.double()
    found = PACKINGS[name].unpack(packed, values.shape, dtype)
    assert torch.equal(found, exact.float().to(dtype))
    distance = (found.double() - exact).abs()
    assert (distance <= (exact.abs() * torch.finfo(dtype).eps / 2).clamp(min=2**-25)).all()


def test_nf4_takes_the_nearest_of_16_values_in_each_64():
    weight = normal(4, 96)
    blocks = weight.reshape(-1, 64)
    peaks = blocks.abs().amax(dim=1, keepdim=True)
    table = torch.tensor(NF4)
    nearest = table[((blocks / peaks).unsqueeze(-1) - table).abs().argmin(dim=-1)] * peaks
    torch.testing.assert_close(unpacked("nf4", weight), nearest.reshape(weight.shape))


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_zeros_stay_zeros(name):
    assert not unpacked(name, torch.zeros(4, 64)).any()


def quantised_layer(name, layer):
    quantise(layer, PACKINGS[name], PACKINGS[name].pack(layer.weight.detach()))
    return layer.requires_grad_(False)


@pytest.mark.parametrize("name", NAMES)
def test_a_linear_layer_computes_with_the_unpacked_weight(name):
    layer = quantised_layer(name, nn.Linear(64, 24))
    x = torch.randn(2, 5, 64, requires_grad=True)
    weight = unpacked_weight(layer, torch.float32)
    reference = F.linear(x, weight, layer.bias)
    assert type(layer) is QuantisedLinear and torch.equal(layer(x), reference)
    grad = torch.randn_like(reference)
    torch.testing.assert_close(torch.autograd.grad(layer(x), x, grad), torch.autograd.grad(reference, x, grad))


@pytest.mark.parametrize("settings", [{"padding": 1}, {"stride": 2, "padding": 1}, {"bias": False, "groups": 2}])
@pytest.mark.parametrize("name", NAMES)
def test_a_convolution_computes_with_the_unpacked_weight(name, settings):
    layer = quantised_layer(name, nn.Conv2d(8, 16, 3, **settings))
    x = torch.randn(2, 8, 9, 7, requires_grad=True)
    weight = unpacked_weight(layer, torch.float32)
    reference = F.conv2d(x, weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    assert type(layer) is QuantisedConv2d and torch.equal(layer(x), reference)
    grad = torch.randn_like(reference)
    torch.testing.assert_close(torch.autograd.grad(layer(x), x, grad), torch.autograd.grad(reference, x, grad))


@pytest.mark.parametrize("name", NAMES)
def test_autograd_keeps_the_packed_weight_and_nothing_else(name):
    layer = quantised_layer(name, nn.Linear(64, 24))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layer(torch.randn(1000, 64, requires_grad=True))
    assert {tensor.data_ptr() for tensor in kept} == {layer.weight.data_ptr(), layer.weight_scale.data_ptr()}


def unpack_in_place(host, dtype):
    for layer in host.modules():
        if isinstance(layer, QuantisedLinear | QuantisedConv2d):
            weight = unpacked_weight(layer, dtype)
            layer.__class__ = nn.Linear if isinstance(layer, QuantisedLinear) else nn.Conv2d
            layer.weight = nn.Parameter(weight, requires_grad=False)


@pytest.mark.parametrize(("family", "layout"), [("sd15", "file"), ("sdxl", "folder")])
@pytest.mark.parametrize("name", NAMES)
def test_a_lora_learns_as_on_a_plain_model_with_the_unpacked_weights(tiny, load, attach, family, layout, name):
    settings = {"quantize_base": name, "quantize_text_encoders": name}
    packed, plain = (load(tiny(family, layout), torch.float32, **settings) for _ in range(2))
    for host in plain.hosts(["unet", "text_encoders"]).values():
        unpack_in_place(host, torch.float32)
    found, expected = (attach(model).gradients() for model in (packed, plain))
    assert len(found) > 50
    largest = max(reference.norm() for reference in expected)
    for mine, reference in zip(found, expected, strict=True):
        assert (mine - reference).norm() < 1e-4 * reference.norm() + 1e-6 * largest
    assert not any(
        parameter.requires_grad for host in packed.hosts(["unet"]).values() for parameter in host.parameters()
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision(tiny, load, attach, name, dtype):
    model = load(tiny("sd15", "folder"), dtype, quantize_base=name, quantize_text_encoders=name)
    attached = attach(model)
    assert attached.predict().dtype == dtype
    assert all(gradient.isfinite().all() and gradient.dtype == torch.float32 for gradient in attached.gradients())


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_ends_norms_and_embeddings_stay(tiny, load, family):
    model = load(tiny(family, "folder"), torch.bfloat16, quantize_base="int8", quantize_text_encoders="int8")
    for host in model.hosts(["unet", "text_encoders"]).values():
        assert not list(quantisable(host))  # what may be packed is
        assert {parameter.dtype for parameter in host.parameters()} == {torch.int8, torch.bfloat16}
    unet = model.hosts(["unet"])["unet"]
    for layer in (unet.conv_in, unet.conv_out, unet.time_embedding.linear_1, unet.down_blocks[0].resnets[0].norm1):
        assert layer.weight.dtype == torch.bfloat16
    assert isinstance(unet.mid_block.resnets[0].conv1, QuantisedConv2d)


def test_the_plain_weights_are_never_all_there(tiny, load, monkeypatch):
    """Each is packed before the next one is read."""
    order, int8 = [], PACKINGS["int8"]

    class Watched:
        empty = int8.empty

        def pack(self, weight):
            order.append("pack")
            return int8.pack(weight)

    def read(weights, original=loading.read_tensors):
        for stored, tensor in original(weights):
            order.append("read")
            yield stored, tensor

    monkeypatch.setattr(loading, "read_tensors", read)
    monkeypatch.setitem(PACKINGS, "int8", Watched())
    unet = load(tiny("sd15", "folder"), quantize_base="int8").hosts(["unet"])["unet"]
    layers = [layer for layer in unet.modules() if isinstance(layer, QuantisedLinear | QuantisedConv2d)]
    assert order.count("pack") == len(layers) > 50
    assert all(order[index - 1] == "read" for index, event in enumerate(order) if event == "pack")


@pytest.mark.parametrize("name", NAMES)
def test_merging_is_refused(tiny, load, attach, name):
    attached = attach(load(tiny("sd15", "folder"), quantize_base=name))
    with pytest.raises(UserError, match="leave out quantize_base"):
        merge(attached.network)
