"""BOFT against a dense butterfly in fp64, LyCORIS, and ComfyUI's formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from networks.algorithm import ForwardContext, Size
from networks.arithmetic.rotation import RotationAdapter, RotationOptions
from networks.boft import BOFT, butterfly_shape, turn_butterfly
from networks.build import build_network
from networks.inject import hook

LAYERS = {
    "linear": lambda: nn.Linear(6, 24),
    "convolution": lambda: nn.Conv2d(6, 24, 3, stride=2, padding=1),
}
OPTIONS = {"free": RotationOptions(constraint=0), "all": RotationOptions(constraint=0.05, rescaled=True)}


def disturbed(host, options):
    host.requires_grad_(False)
    adapter = RotationAdapter(host, butterfly_shape(24, 6), turn_butterfly, Size(6, 1.0), options)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    context = ForwardContext()
    hook(host, adapter, context)
    return adapter, context


def stage_members(outputs, stage, block):
    """The outputs that each block of a stage mixes, by index: pairs that lie `reach` apart, gathered in their order."""
    reach = 2**stage * (block // 2)
    order = [
        start + within + half * reach
        for start in range(0, outputs, 2 * reach)
        for within in range(reach)
        for half in (0, 1)
    ]
    return [order[at : at + block] for at in range(0, outputs, block)]


def butterfly(blocks, limit=float("inf")):
    """The whole turn as one dense matrix."""
    skew = blocks - blocks.transpose(-1, -2)
    skew = skew * min(1.0, limit / skew.norm().item())
    identity = torch.eye(blocks.shape[-1], dtype=blocks.dtype)
    turns = (identity + skew) @ torch.linalg.inv(identity - skew)
    outputs = blocks.shape[1] * blocks.shape[2]
    whole = torch.eye(outputs, dtype=blocks.dtype)
    for stage, of_stage in enumerate(turns):
        dense = torch.zeros(outputs, outputs, dtype=blocks.dtype)
        for turn, members in zip(of_stage, stage_members(outputs, stage, blocks.shape[-1])):
            dense[torch.tensor(members)[:, None], torch.tensor(members)] = turn
        whole = dense @ whole
    return whole


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_outputs_are_those_of_the_turned_weight(layer, options):
    host = layer()
    adapter, context = disturbed(host, options)
    weight = host.weight.double()
    limit = 0.05 * 24 if options.constraint else float("inf")
    turn = butterfly(adapter.oft_blocks.detach().double(), limit)
    torch.testing.assert_close(turn @ turn.T, torch.eye(24, dtype=torch.float64))
    assert (turn != 0).all()  # every output reaches every other
    if options.rescaled:
        turn = torch.diag(adapter.rescale.detach().double()) @ turn
    expected = (turn @ weight.flatten(1)).view(weight.shape)
    shape = (2, 5, 6) if isinstance(host, nn.Linear) else (2, 6, 7, 9)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    for multiplier in (1.0, 0.6, -0.5):
        context.multiplier = multiplier
        merged, bias = weight + multiplier * (expected - weight), host.bias.double()
        if isinstance(host, nn.Linear):
            outputs = F.linear(x.double(), merged, bias)
        else:
            outputs = F.conv2d(x.double(), merged, bias, host.stride, host.padding)
        torch.testing.assert_close(host(x).double(), outputs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(adapter.delta().double(), expected - weight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_lycoris_makes_the_same_of_the_tensors(layer, options):
    boft = pytest.importorskip("lycoris.modules.boft")
    host = layer()
    theirs = boft.ButterflyOFTModule("x", host, lora_dim=6, constraint=options.constraint, rescaled=options.rescaled)
    adapter, _ = disturbed(host, options)
    tensors = adapter.tensors()
    assert {name: value.shape for name, value in theirs.state_dict().items()} == {
        name: value.shape for name, value in tensors.items()
    }
    with torch.no_grad():
        theirs.oft_blocks.copy_(adapter.oft_blocks)
        if options.rescaled:
            theirs.rescale.copy_(tensors["rescale"])
    torch.testing.assert_close(adapter.delta(), theirs.get_diff_weight()[0], rtol=1e-4, atol=1e-5)


def test_blocks_are_dealt_as_in_lycoris():
    general = pytest.importorskip("lycoris.functional.general")
    for outputs in [*range(2, 130), 320, 640, 768, 1280, 3072, 10240]:
        for largest in (2, 3, 4, 8, 10, 16, 64):
            size, count = general.power2factorization(outputs, largest)
            stages = count.bit_length()
            assert butterfly_shape(outputs, largest) == ((stages, count, size, size) if count else None)


def test_a_file_does_in_comfyui_what_it_does_here(tiny, disturb):
    model = tiny()
    arguments = {"conv_dim": 2, "constraint": 0.02, "rescaled": True}
    config = NetworkConfig(network_module="networks.boft", network_args=arguments)
    network = build_network(config, model.hosts, "sd1", seed=1)
    disturb(network, 0.3)
    tensors = network.state_dict_to_save()
    for key, site in network.sites.items():
        limit = tensors[f"{key}.alpha"].item() or float("inf")  # which is how ComfyUI reads it
        turn = tensors[f"{key}.rescale"].view(-1, 1) * butterfly(tensors[f"{key}.oft_blocks"], limit)
        weight = site.module.weight
        expected = (turn @ weight.flatten(1)).view(weight.shape) - weight
        torch.testing.assert_close(network.delta(key), expected, rtol=1e-4, atol=1e-5)
    site = "lora_unet_mid_block_resnets_0_conv1"
    shapes = {name: tuple(value.shape) for name, value in tensors.items() if name.startswith(site + ".")}
    assert shapes == {
        f"{site}.oft_blocks": (5, 16, 2, 2), f"{site}.alpha": (), f"{site}.rescale": (32, 1, 1, 1),
    }  # fmt: skip


def test_mistakes_are_told(tiny):
    config = NetworkConfig(network_module="networks.boft", network_dim=1)
    with pytest.raises(UserError, match=r"at least 2 for the 16 outputs of lora_unet_.*network_dim.*2 or more"):
        build_network(config, tiny().hosts, "sd1", seed=1)
    algorithm = BOFT(RotationOptions())
    assert algorithm.size_in_file({"oft_blocks": torch.zeros(3, 4, 4)}) is None
    assert algorithm.size_in_file({"lora_down.weight": torch.zeros(3, 4)}) is None


@pytest.mark.parametrize("rows", [100, 300], ids=["few values", "many values"])
def test_stages_are_not_kept_for_the_backward_pass(rows):
    turns = torch.zeros(butterfly_shape(128, 4), requires_grad=True)
    values = torch.randn(rows, 128, requires_grad=True)
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        turn_butterfly(turns, values)
    assert sum(storage.nbytes() for storage in kept.values()) <= 2 * values.nbytes
