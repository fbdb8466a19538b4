"""OFT against dense arithmetic in fp64, LyCORIS, and the formulas of sd-scripts and ComfyUI."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from library.lora_files.file import save_lora
from library.models.quantised import PACKINGS, quantise
from networks.algorithm import ForwardContext, Size
from networks.arithmetic.rotation import RotationAdapter, RotationOptions
from networks.build import build_network, check_network
from networks.files.apply import apply_lora
from networks.inject import hook
from networks.oft import OFT, turn_blocks

LAYERS = {
    "linear": lambda: nn.Linear(6, 12),
    "without bias": lambda: nn.Linear(6, 12, bias=False),
    "pointwise": lambda: nn.Conv2d(6, 12, 1),
    "convolution": lambda: nn.Conv2d(6, 12, 3, stride=2, padding=1),
}
OPTIONS = {
    "free": RotationOptions(),
    "limited": RotationOptions(constraint=0.1),
    "rescaled": RotationOptions(rescaled=True),
}
BLOCKS = (3, 4, 4)


def disturbed(host, options, strength=0.4):
    host.requires_grad_(False)
    adapter = RotationAdapter(host, BLOCKS, turn_blocks, Size(3, 1000.0), options)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(strength * torch.randn(parameter.shape, generator=draw))
    context = ForwardContext()
    hook(host, adapter, context)
    return adapter, context


def inputs(host):
    shape = (2, 5, 6) if isinstance(host, nn.Linear) else (2, 6, 7, 9)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def rotations(blocks, limit=float("inf")):
    """R of each block by Cayley's formula, with an inverse."""
    skew = blocks - blocks.transpose(-1, -2)
    skew = skew * min(1.0, limit / skew.norm().item())
    identity = torch.eye(blocks.shape[-1], dtype=blocks.dtype)
    return (identity + skew) @ torch.linalg.inv(identity - skew)


def turned(weight, adapter, limit=float("inf")):
    """T W with one dense T, fp64."""
    turn = torch.block_diag(*rotations(adapter.oft_blocks.detach().double(), limit)).T
    if adapter.rescale is not None:
        turn = torch.diag(adapter.rescale.detach().double()) @ turn
    return (turn @ weight.double().flatten(1)).view(weight.shape)


def product(host, x, weight):
    bias = None if host.bias is None else host.bias.double()
    if isinstance(host, nn.Linear):
        return F.linear(x.double(), weight, bias)
    return F.conv2d(x.double(), weight, bias, host.stride, host.padding)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_outputs_are_those_of_the_turned_weight(layer, options):
    host = layer()
    adapter, context = disturbed(host, options)
    weight = host.weight.double()
    limit = 0.1 * 12 if options.constraint else float("inf")
    expected = turned(weight, adapter, limit)
    for multiplier in (1.0, 0.6, -0.5):
        context.multiplier = multiplier
        outputs = product(host, inputs(host), weight + multiplier * (expected - weight))
        torch.testing.assert_close(host(inputs(host)).double(), outputs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(adapter.delta().double(), expected - weight, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(adapter.norm(), adapter.delta().norm())


def test_angles_and_lengths_of_the_weights_columns_stay():
    host = nn.Linear(6, 12)
    adapter, _ = disturbed(host, RotationOptions())
    weight = host.weight + adapter.delta()
    torch.testing.assert_close(weight.T @ weight, host.weight.T @ host.weight, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(weight, host.weight, atol=0.1)


@pytest.mark.parametrize("strength", [0.0, 0.4])
def test_gradients_are_those_of_the_dense_formula(strength):
    host = nn.Linear(6, 12)
    adapter, _ = disturbed(host, RotationOptions(constraint=0.1), strength)
    blocks = adapter.oft_blocks.detach().double().requires_grad_()
    skew = blocks - blocks.mT
    norm = (skew.square().sum() + 1e-30).sqrt()
    skew = skew * (1.2 / norm if norm > 1.2 else 1.0)
    identity = torch.eye(4, dtype=torch.float64)
    turn = torch.block_diag(*((identity + skew) @ torch.linalg.inv(identity - skew))).T
    slope = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(3))
    expected = F.linear(inputs(host).double(), turn @ host.weight.double(), host.bias.double())
    of_expected = torch.autograd.grad(expected, blocks, slope.double())
    of_found = torch.autograd.grad(host(inputs(host)), adapter.oft_blocks, slope)
    torch.testing.assert_close(of_found[0].double(), of_expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_lycoris_makes_the_same_of_the_tensors(layer, options):
    diag_oft = pytest.importorskip("lycoris.modules.diag_oft")
    host = layer()
    theirs = diag_oft.DiagOFTModule(
        "x", host, lora_dim=3, constraint=options.constraint or 0, rescaled=options.rescaled
    )
    adapter, _ = disturbed(host, options)
    with torch.no_grad():
        theirs.oft_blocks = nn.Parameter(adapter.oft_blocks.detach())
        theirs.block_num, theirs.block_size = BLOCKS[:2]
        if options.rescaled:
            theirs.rescale.copy_(adapter.tensors()["rescale"])
    # with factors of outputs theirs fails at other strengths
    for multiplier in (1.0,) if options.rescaled else (1.0, 0.5):
        difference, _ = theirs.get_diff_weight(multiplier)
        torch.testing.assert_close(multiplier * adapter.delta(), difference, rtol=1e-4, atol=1e-5)


def merged_by_comfyui(weight, tensors, key):
    """ComfyUI's reading of a site at strength 1, where `alpha` is the limit."""
    blocks, limit = tensors[f"{key}.oft_blocks"], tensors[f"{key}.alpha"].item()
    turns = rotations(blocks, limit or float("inf"))
    return torch.einsum("knm,kn...->km...", turns, weight.unflatten(0, blocks.shape[:2])).flatten(0, 1)


def test_a_file_does_in_comfyui_what_it_does_here(tiny, disturb):
    model = tiny()
    arguments = {"enable_all_linear": True, "enable_text_encoder": True, "conv_dim": 2, "constraint": 0.02}
    config = NetworkConfig(network_module="networks.oft", network_args=arguments)
    network = build_network(config, model.hosts, "sd1", seed=1)
    disturb(network, 0.3)
    tensors = network.state_dict_to_save()
    for key, site in network.sites.items():
        expected = merged_by_comfyui(site.module.weight, tensors, key) - site.module.weight
        torch.testing.assert_close(network.delta(key), expected, rtol=1e-4, atol=1e-5)
    site = "lora_unet_mid_block_resnets_0_conv1"
    shapes = {name: tuple(value.shape) for name, value in tensors.items() if name.startswith(site + ".")}
    assert shapes == {f"{site}.oft_blocks": (2, 16, 16), f"{site}.alpha": ()}


def test_files_of_sd_scripts_act_here_as_there(tiny, tmp_path):
    model, draw = tiny(), torch.Generator().manual_seed(5)
    config = NetworkConfig(network_module="networks.oft", network_dim=4, network_alpha=1e-2)
    keys = list(build_network(config, tiny().hosts, "sd1", seed=1).sites)
    file, expected = {}, {}
    for name, module in model.hosts["unet"].named_modules():
        if type(module) is nn.Linear and ("attn1." in name or "attn2." in name):
            outputs = module.out_features
            blocks = 0.2 * torch.randn(4, outputs // 4, outputs // 4, generator=draw)
            key = "unet." + name
            file[f"oft_{key.replace('.', '_')}.oft_blocks"] = blocks
            file[f"oft_{key.replace('.', '_')}.alpha"] = torch.tensor(1e-2)
            expected["lora_" + key.replace(".", "_")] = (
                torch.block_diag(*rotations(blocks, 1e-2 * outputs)).T @ module.weight
            )
    save_lora(tmp_path / "x.safetensors", file, {"ss_network_module": "networks.oft"})
    network = apply_lora(tmp_path / "x.safetensors", model.hosts, "sd1")
    assert sorted(network.sites) == sorted(expected) == sorted(keys)
    for key, site in network.sites.items():
        torch.testing.assert_close(site.module.weight + network.delta(key), expected[key], rtol=1e-4, atol=1e-5)


def test_the_options_say_where_it_acts(tiny):
    def keys(**arguments):
        config = NetworkConfig(network_module="networks.oft", network_args=arguments)
        return set(build_network(config, tiny().hosts, "sd1", seed=1).sites)

    attention = keys()
    assert all("_attn1_" in key or "_attn2_" in key for key in attention)
    everywhere = keys(enable_all_linear=True)
    assert attention < everywhere and any(key.endswith("proj_in") for key in everywhere)
    assert all(key.startswith("lora_unet_") for key in everywhere)
    assert any(key.startswith("lora_te_") for key in keys(enable_text_encoder=True))
    assert {key for key in keys(conv_dim=4) - attention if "resnets" not in key and "samplers" not in key} == set()
    assert keys(conv_dim=4) > attention


def test_a_quantised_host_is_turned_too():
    host, plain = nn.Linear(64, 12), nn.Linear(64, 12)
    quantise(host, PACKINGS["int8"], PACKINGS["int8"].pack(host.weight.detach()))
    with torch.no_grad():
        plain.weight.copy_(host.whole_weight(torch.float32))
        plain.bias.copy_(host.bias)
    packed, whole = disturbed(host, RotationOptions())[0], disturbed(plain, RotationOptions())[0]
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(host(x), plain(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(packed.delta(), whole.delta())


def test_blocks_that_keep_to_a_limit_stay_as_they_are():
    adapter, _ = disturbed(nn.Linear(6, 12), RotationOptions(constraint=0.1))
    saved = adapter.tensors()
    assert (saved["oft_blocks"] - saved["oft_blocks"].mT).norm().item() == pytest.approx(1.2)
    assert saved["alpha"] == 0
    other, _ = disturbed(nn.Linear(6, 12), RotationOptions(constraint=0.1))
    other.load(saved)
    assert torch.equal(other.tensors()["oft_blocks"], saved["oft_blocks"])


def test_alpha_in_a_file_limits_what_is_loaded():
    adapter, _ = disturbed(nn.Linear(6, 12), RotationOptions())
    blocks = torch.randn(BLOCKS, generator=torch.Generator().manual_seed(6))
    adapter.load({"oft_blocks": blocks, "alpha": torch.tensor(0.05)})
    limited = adapter.oft_blocks.detach()
    assert (limited - limited.mT).norm().item() == pytest.approx(0.05 * 12)
    with pytest.raises(ValueError, match="rescale"):
        adapter.load({"oft_blocks": blocks, "rescale": torch.ones(12, 1)})


def test_mistakes_are_told(tiny):
    config = NetworkConfig(network_module="networks.oft", network_dim=5)
    with pytest.raises(UserError, match=r"16 outputs of lora_unet_.* into 5 equal blocks"):
        build_network(config, tiny().hosts, "sd1", seed=1)
    with pytest.raises(UserError, match="expected false; set conv_dim instead"):
        check_network(NetworkConfig(network_module="networks.oft", network_args={"enable_conv": "True"}))
    check_network(NetworkConfig(network_module="networks.oft", network_args={"enable_conv": "False"}))
    algorithm = OFT(OFT.Options())
    assert algorithm.size_in_file({"oft_blocks": torch.zeros(2, 3, 4, 4)}) is None
    assert algorithm.size_in_file({"lora_down.weight": torch.zeros(3, 4)}) is None
    with pytest.raises(ValueError, match="alpha"):
        algorithm.size_in_file({"oft_blocks": torch.zeros(3, 4, 4), "alpha": torch.ones(2)})
