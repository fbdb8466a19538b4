"""DoRA against dense arithmetic in fp64, LyCORIS and PEFT."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from library.lora_files.convert import converted
from library.lora_files.file import save_lora
from library.models.quantised import PACKINGS, quantise
from networks.algorithm import ForwardContext, Size
from networks.base import Rates
from networks.build import build_network, check_network
from networks.dora import DoRA, DoRAAdapter, DoRAOptions
from networks.inject import hook
from networks.lora import Dropouts, LoRA, LoRAOptions
from tests.networks.test_diffusers import pipeline

SIZE = Size(4, 6.0)
LAYERS = {
    "linear": lambda: nn.Linear(6, 10),
    "without bias": lambda: nn.Linear(6, 10, bias=False),
    "pointwise": lambda: nn.Conv2d(6, 10, 1),
    "convolution": lambda: nn.Conv2d(6, 10, 3, stride=2, padding=1),
}
AXES = {"inputs": False, "outputs": True}
"""Whose magnitudes -> wd_on_output."""


def disturbed(host, on_output, size=SIZE):
    host.requires_grad_(False)
    adapter = DoRAAdapter(host, size, on_output, Dropouts(), torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        adapter.lora.up.normal_(generator=draw)
        adapter.magnitude.mul_(1 + 0.3 * torch.rand(adapter.magnitude.shape, generator=draw))
    context = ForwardContext()
    hook(host, adapter, context)
    return adapter, context


def inputs(host):
    shape = (2, 5, 6) if isinstance(host, nn.Linear) else (2, 6, 7, 9)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def adapted(weight, down, up, magnitude, scale, on_output):
    """W' as eq. 5 writes it; the norm is a constant for autograd, as in section 4.3."""
    merged = weight + scale * (up.flatten(1) @ down.flatten(1)).view(weight.shape)
    rows = (merged if on_output else merged.transpose(0, 1)).flatten(1)
    norms = torch.linalg.vector_norm(rows, dim=1).detach()
    return merged * (magnitude.flatten() / norms).view(
        [-1 if axis == (not on_output) else 1 for axis in range(merged.dim())]
    )


def product(host, x, weight):
    bias = None if host.bias is None else host.bias.to(x.dtype)
    if isinstance(host, nn.Linear):
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, host.stride, host.padding)


@pytest.mark.parametrize("on_output", AXES.values(), ids=AXES)
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_outputs_and_gradients_are_those_of_the_dense_weight(layer, on_output):
    host = layer()
    adapter, context = disturbed(host, on_output)
    trained = (adapter.lora.down, adapter.lora.up, adapter.magnitude)
    x = inputs(host).requires_grad_()
    exact = [each.detach().double().requires_grad_() for each in (x, *trained)]
    weight = host.weight.double()
    for multiplier in (1.0, 0.6, -0.5):
        context.multiplier = multiplier
        changed = adapted(weight, *exact[1:], SIZE.scale, on_output)
        expected = product(host, exact[0], weight + multiplier * (changed - weight))
        found = host(x)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
        slope = torch.randn(found.shape, generator=torch.Generator().manual_seed(3))
        of_found = torch.autograd.grad(found, (x, *trained), slope)
        of_expected = torch.autograd.grad(expected, exact, slope.double())
        for one, other in zip(of_found, of_expected):
            torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(adapter.delta().double(), changed - weight, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(adapter.norm(), adapter.delta().norm())


@pytest.mark.parametrize("on_output", AXES.values(), ids=AXES)
def test_norms_follow_weights_that_are_changed_in_place(on_output):
    host = nn.Linear(6, 10)
    adapter, _ = disturbed(host, on_output)
    host(inputs(host))
    values = adapter.lora.up.detach() * 3
    adapter.lora.up.data = values  # as flat storage does
    values.mul_(0.5)
    changed = adapted(host.weight, adapter.lora.down, adapter.lora.up, adapter.magnitude, SIZE.scale, on_output)
    torch.testing.assert_close(host(inputs(host)), product(host, inputs(host), changed))


@pytest.mark.parametrize("on_output", AXES.values(), ids=AXES)
def test_magnitudes_between_the_numbers_of_bf16_count(on_output):
    host = nn.Linear(64, 64, bias=False).bfloat16()
    x = torch.randn(4096, 64, generator=torch.Generator().manual_seed(4)).bfloat16()
    before = host(x).float()
    adapter = DoRAAdapter(host, SIZE, on_output, Dropouts(), torch.Generator())
    hook(host, adapter, ForwardContext())
    with torch.no_grad():
        adapter.magnitude.mul_(1.01)  # between 1.0078 and 1.0156
        after = host(x).float()
    assert ((after * before).sum() / before.square().sum()).item() == pytest.approx(1.01, abs=1e-3)


@pytest.mark.parametrize("on_output", AXES.values(), ids=AXES)
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_lycoris_makes_the_same_of_the_tensors(layer, on_output):
    locon = pytest.importorskip("lycoris.modules.locon")
    host = layer()
    theirs = locon.LoConModule(
        "x", host, lora_dim=4, alpha=6.0, weight_decompose=True, wd_on_out=on_output, use_tucker=False
    )
    adapter, _ = disturbed(host, on_output)
    tensors = adapter.tensors()
    assert {name: value.shape for name, value in theirs.custom_state_dict().items()} == {
        name: value.shape for name, value in tensors.items()
    }
    with torch.no_grad():
        theirs.lora_down.weight.copy_(tensors["lora_down.weight"])
        theirs.lora_up.weight.copy_(tensors["lora_up.weight"])
        theirs.dora_scale.copy_(tensors["dora_scale"])
    merged, _ = theirs.get_merged_weight()
    torch.testing.assert_close(host.weight + adapter.delta(), merged)
    torch.testing.assert_close(host(inputs(host)), theirs(inputs(host)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_peft_makes_the_same_of_magnitudes_of_outputs(layer):
    peft = pytest.importorskip("peft")
    host = layer()
    plain = nn.ModuleDict({"site": layer()})
    plain["site"].load_state_dict(host.state_dict())
    adapter, _ = disturbed(host, on_output=True)
    theirs = peft.inject_adapter_in_model(
        peft.LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=["site"]), plain
    )["site"]
    with torch.no_grad():
        theirs.lora_A["default"].weight.copy_(adapter.lora.down)
        theirs.lora_B["default"].weight.copy_(adapter.lora.up)
        magnitude = theirs.lora_magnitude_vector["default"].weight
        magnitude.copy_(adapter.magnitude.view(magnitude.shape))
    torch.testing.assert_close(host(inputs(host)), theirs(inputs(host)), rtol=1e-4, atol=1e-5)


def merged_by_comfyui(weight, tensors, key):
    """ComfyUI's and A1111's reading of a site at strength 1, where the magnitudes are of inputs."""
    down, up = (tensors[f"{key}.lora_{name}.weight"].flatten(1) for name in ("down", "up"))
    change = (up @ down).view(weight.shape) * (tensors[f"{key}.alpha"] / down.shape[0])
    merged = weight + change
    norms = torch.linalg.vector_norm(merged.transpose(0, 1).flatten(1), dim=1)
    return merged * (tensors[f"{key}.dora_scale"] / norms.view(1, -1, *[1] * (weight.dim() - 2)))


def test_a_file_does_in_comfyui_what_it_does_here(tiny, disturb):
    model = tiny()
    by_block = {"block_alphas": [1.0 + block % 3 for block in range(25)], "conv_dim": 2}
    config = NetworkConfig(network_module="networks.dora", network_dim=3, network_args=by_block)
    network = build_network(config, model.hosts, "sd1", seed=1)
    disturb(network)
    tensors = network.state_dict_to_save()
    linears = {tensors[f"{key}.alpha"].item() for key, site in network.sites.items() if site.kind == "linear"}
    assert len(linears) == 1  # with_one_alpha has been at it
    for key, site in network.sites.items():
        expected = merged_by_comfyui(site.module.weight, tensors, key) - site.module.weight
        torch.testing.assert_close(network.delta(key), expected, rtol=1e-4, atol=1e-5)
    site = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    shapes = {name: tuple(value.shape) for name, value in tensors.items() if name.startswith(site + ".")}
    assert shapes == {
        f"{site}.lora_down.weight": (3, 16), f"{site}.lora_up.weight": (16, 3), f"{site}.alpha": (), f"{site}.dora_scale": (1, 16),
    }  # fmt: skip


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_magnitudes_of_outputs_act_in_diffusers_as_here_once_converted(tiny, disturb, tmp_path, family):
    model = tiny(family)
    arguments = {"wd_on_output": True, "conv_dim": 2}
    config = NetworkConfig(network_module="networks.dora", network_alpha=2, network_args=arguments)
    network = build_network(config, model.hosts, family, seed=1)
    disturb(network, 0.2)
    expected = model.predict(), model.encode("te1")
    save_lora(tmp_path / "x.safetensors", converted(network.state_dict_to_save(), family, "diffusers"), {})
    other = tiny(family)
    frozen = other.predict(), other.encode("te1")
    pipeline(other).load_lora_weights(tmp_path, weight_name="x.safetensors")
    for was, found, wanted in zip(frozen, (other.predict(), other.encode("te1")), expected):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(was, wanted, atol=1e-2)


@pytest.mark.parametrize("on_output", AXES.values(), ids=AXES)
def test_other_magnitudes_than_those_of_the_file_are_refused(tiny, tmp_path, on_output):
    config = NetworkConfig(network_module="networks.dora", network_args={"wd_on_output": on_output})
    save_lora(tmp_path / "x.safetensors", build_network(config, tiny().hosts, "sd1", seed=1).state_dict_to_save(), {})
    contradicted = NetworkConfig(
        network_module="networks.dora", network_weights=str(tmp_path / "x.safetensors"), dim_from_weights=True,
        network_args={"wd_on_output": not on_output},
    )  # fmt: skip
    with pytest.raises(UserError, match="leave wd_on_output out"):
        build_network(contradicted, tiny().hosts, "sd1", seed=1)


@pytest.mark.parametrize("on_output", AXES.values(), ids=AXES)
@pytest.mark.parametrize(
    "layer", [lambda: nn.Linear(64, 32), lambda: nn.Conv2d(8, 16, 3, padding=1)], ids=["linear", "conv"]
)
def test_a_quantised_host_counts_with_its_unpacked_weight(layer, on_output):
    host, plain = layer(), layer()
    quantise(host, PACKINGS["int8"], PACKINGS["int8"].pack(host.weight.detach()))
    with torch.no_grad():
        plain.weight.copy_(host.whole_weight(torch.float32))
        plain.bias.copy_(host.bias)
    packed, whole = disturbed(host, on_output)[0], disturbed(plain, on_output)[0]
    x = torch.randn(
        (3, 64) if isinstance(plain, nn.Linear) else (2, 8, 5, 5), generator=torch.Generator().manual_seed(2)
    )
    torch.testing.assert_close(host(x), plain(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(packed.delta(), whole.delta())


def test_sizes_come_from_dora_files_alone():
    matrices = {"lora_down.weight": torch.zeros(2, 6), "lora_up.weight": torch.zeros(10, 2)}
    algorithm = DoRA(DoRAOptions())
    assert algorithm.size_in_file(matrices) is None
    row, column = ({**matrices, "dora_scale": torch.zeros(shape)} for shape in ((1, 6), (10, 1)))
    assert LoRA(LoRAOptions()).size_in_file(matrices) is not None
    assert LoRA(LoRAOptions()).size_in_file(row) is None
    assert not algorithm.size_in_file(row).on_output
    assert algorithm.size_in_file(column).on_output
    for shape in ((6,), (3, 2), ()):
        with pytest.raises(ValueError, match="neither a column nor a row"):
            algorithm.size_in_file({**matrices, "dora_scale": torch.zeros(shape)})
    adapter, _ = disturbed(nn.Linear(6, 10), on_output=False)
    with pytest.raises(ValueError, match="dora_scale"):
        adapter.load(matrices)
    with pytest.raises(ValueError, match=r"dora_scale .*wd_on_output is false"):
        adapter.load(column)


def test_lora_plus_speeds_up_what_starts_at_zero(tiny):
    config = NetworkConfig(network_module="networks.dora", network_args={"loraplus_lr_ratio": 16.0})
    network = build_network(config, tiny().hosts, "sd1", seed=1)
    groups = network.parameter_groups(Rates({"unet": 1e-4}))
    [faster] = [group for group in groups if group.lr == pytest.approx(16e-4)]
    assert not any(parameter.any() for parameter in faster.parameters)
    assert len(faster.parameters) * 2 == sum(len(group.parameters) for group in groups if group is not faster)


@pytest.mark.parametrize("word", ["use_dora", "dora_wd"])
def test_lora_points_to_dora(word):
    with pytest.raises(UserError, match=r"networks\.dora"):
        check_network(NetworkConfig(network_args={word: "True"}))
    check_network(NetworkConfig(network_args={word: "False"}))
