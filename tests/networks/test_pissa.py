"""PiSSA: where it starts, what it is equal to, what its files hold."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from library.lora_files.file import save_lora
from library.lora_files.names.keys import Site
from library.models.quantised import PACKINGS, quantise, unpacked_weight
from networks.algorithm import ForwardContext, Size
from networks.build import build_network
from networks.files.apply import apply_lora
from networks.inject import hook
from networks.lora import LoRAAdapter
from networks.pissa import PiSSA, PiSSAOptions, principal_factors

SIZE = Size(3, 6.0)


def weight_with_values(values, outputs=30, inputs=40):
    """A weight (O, N) with these singular values."""
    draw = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(outputs, len(values), generator=draw)).Q
    right = torch.linalg.qr(torch.randn(inputs, len(values), generator=draw)).Q
    return left @ torch.diag(torch.tensor(values)) @ right.t()


def adapter_on(host, niter=0, size=SIZE):
    host.requires_grad_(False)
    site = Site("unet", "a", "lora_a", "linear", None, host)
    adapter = PiSSA(PiSSAOptions(niter)).adapter(site, size, torch.Generator().manual_seed(0))
    context = ForwardContext()
    hook(host, adapter, context)
    return adapter, context


@pytest.mark.parametrize("niter", [0, 4])
def test_starts_from_the_greatest_singular_values(niter):
    weight = weight_with_values([9.0, 5.0, 3.0, *[1.0 / (2 + index) for index in range(25)]])
    up, down = principal_factors(weight, 3, niter, torch.Generator().manual_seed(0))
    torch.testing.assert_close(up.t() @ up, torch.diag(torch.tensor([9.0, 5.0, 3.0])), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(down @ down.t(), torch.diag(torch.tensor([9.0, 5.0, 3.0])), rtol=1e-4, atol=1e-4)
    left, values, right = torch.linalg.svd(weight.double())
    best = (left[:, :3] * values[:3]) @ right[:3]
    torch.testing.assert_close((up @ down).double(), best, rtol=1e-3, atol=1e-4)


def test_the_quick_decomposition_depends_on_the_generator_alone():
    weight = torch.randn(20, 30, generator=torch.Generator().manual_seed(5))
    first = principal_factors(weight, 4, 2, torch.Generator().manual_seed(1))
    torch.manual_seed(77)
    again = principal_factors(weight, 4, 2, torch.Generator().manual_seed(1))
    other = principal_factors(weight, 4, 2, torch.Generator().manual_seed(2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("host", [nn.Linear(12, 10), nn.Conv2d(4, 10, 3, padding=1)], ids=str)
def test_equals_the_papers_residual_host_with_trained_factors(host):
    host = nn.Linear(12, 10) if isinstance(host, nn.Linear) else nn.Conv2d(4, 10, 3, padding=1)
    x = torch.randn(2, 12) if isinstance(host, nn.Linear) else torch.randn(2, 4, 5, 6)
    frozen = host(x).detach()
    adapter, _ = adapter_on(host)
    torch.testing.assert_close(host(x), frozen)
    assert not adapter.delta().any()

    scale = 6.0 / 3
    left, values, right = torch.linalg.svd(host.weight.flatten(1).double(), full_matrices=False)
    roots = (values[:3] / scale).sqrt()
    down0, up0 = roots[:, None] * right[:3], left[:, :3] * roots
    residual = host.weight.flatten(1).double() - scale * up0 @ down0
    signs = torch.sign((adapter.up.flatten(1).double() * up0).sum(0))  # singular vectors are known up to their sign
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        adapter.down_change.copy_(torch.randn(adapter.down_change.shape, generator=draw))
        adapter.up_change.copy_(torch.randn(adapter.up_change.shape, generator=draw))
    down = (down0 * signs[:, None] + adapter.down_change.detach().flatten(1)).requires_grad_()
    up = (up0 * signs + adapter.up_change.detach().flatten(1)).requires_grad_()
    weight = (residual + scale * up @ down).view_as(host.weight)
    plain = F.linear if isinstance(host, nn.Linear) else lambda *each: F.conv2d(*each, padding=1)
    expected = plain(x.double(), weight, host.bias.double())
    torch.testing.assert_close(host(x).double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close((host.weight + adapter.delta()).double(), weight, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(adapter.norm(), adapter.delta().norm())

    found = torch.autograd.grad(host(x).square().sum(), (adapter.down_change, adapter.up_change))
    wanted = torch.autograd.grad(expected.square().sum(), (down, up))
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one.flatten(1).double(), other, rtol=1e-3, atol=1e-2)


def test_its_file_is_a_lora_of_twice_the_rank():
    host = nn.Linear(12, 10)
    adapter, _ = adapter_on(host)
    with torch.no_grad():
        adapter.down_change.normal_()
        adapter.up_change.normal_()
    tensors = adapter.tensors()
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "lora_down.weight": (6, 12), "lora_up.weight": (10, 6), "alpha": (),
    }  # fmt: skip
    lora = LoRAAdapter(host, Size(6, 12.0), None, torch.Generator())
    lora.load(tensors)
    assert torch.equal(lora.delta(), adapter.delta())
    assert PiSSA(PiSSAOptions()).size_in_file(tensors) == Size(3, 6.0)


def test_half_precision_files_lose_little_beside_the_change():
    host = nn.Linear(64, 64)
    with torch.no_grad():
        host.weight.mul_(20)
    adapter, _ = adapter_on(host)
    with torch.no_grad():
        adapter.down_change.normal_(std=1e-3)
        adapter.up_change.normal_(std=1e-3)
    delta = adapter.delta()
    lora = LoRAAdapter(host, Size(6, 12.0), None, torch.Generator())
    lora.load({name: tensor.half() for name, tensor in adapter.tensors().items()})
    assert (lora.delta() - delta).norm() < 1e-3 * delta.norm()


@pytest.mark.parametrize("packing", ["int8", "fp8", "nf4"])
def test_starts_from_the_weight_that_a_quantised_host_computes_with(packing):
    host = nn.Linear(64, 64)
    kind = PACKINGS[packing]
    quantise(host, kind, kind.pack(host.weight.detach().clone()))
    x = torch.randn(3, 64)
    frozen = host(x)
    adapter, _ = adapter_on(host)
    assert torch.equal(host(x), frozen)
    left, values, right = torch.linalg.svd(unpacked_weight(host, torch.float32))
    torch.testing.assert_close(
        adapter.up @ adapter.down * 2.0, (left[:, :3] * values[:3]) @ right[:3], rtol=1e-3, atol=1e-4
    )


def test_a_rank_above_the_weights_is_refused():
    with pytest.raises(UserError, match=r"lora_a has only 4 singular vectors.*rank 5"):
        adapter_on(nn.Linear(9, 4), size=Size(5, 5.0))


def test_memory_can_be_counted_without_weights():
    adapter, _ = adapter_on(nn.Linear(12, 10, device="meta"), niter=2)
    assert adapter.down.is_meta and adapter.up_change.is_meta


def test_files_of_an_odd_rank_are_not_taken_for_its_own():
    tensors = LoRAAdapter(nn.Linear(6, 8), Size(3, 3.0), None, torch.Generator()).tensors()
    with pytest.raises(ValueError, match="even rank"):
        PiSSA(PiSSAOptions()).size_in_file(tensors)


def test_a_finished_file_is_put_on_as_a_lora(tiny, disturb, tmp_path):
    model = tiny()
    config = NetworkConfig(network_module="networks.pissa", network_dim=3, network_args={"conv_dim": 2})
    network = build_network(config, model.hosts, "sd1", seed=0)
    disturb(network)
    acting = model.predict()
    save_lora(tmp_path / "p.safetensors", network.state_dict_to_save(), network.metadata())
    network.detach()
    applied = apply_lora(tmp_path / "p.safetensors", model.hosts, "sd1")
    assert {type(adapter) for adapter in applied.adapters.values()} == {LoRAAdapter}
    torch.testing.assert_close(model.predict(), acting, rtol=1e-4, atol=1e-5)


def test_a_run_that_started_from_a_file_resumes_with_its_trained_values(tiny, disturb, tmp_path):
    first = build_network(NetworkConfig(network_module="networks.pissa"), tiny().hosts, "sd1", seed=0)
    disturb(first)
    save_lora(tmp_path / "p.safetensors", first.state_dict_to_save(), first.metadata())
    config = NetworkConfig(network_module="networks.pissa", network_weights=str(tmp_path / "p.safetensors"))
    network = build_network(config, tiny().hosts, "sd1", seed=5)
    disturb(network, 0.02)
    resumed = build_network(config, tiny().hosts, "sd1", seed=5)
    with torch.no_grad():
        for (name, parameter), (other, trained) in zip(resumed.named_parameters(), network.named_parameters()):
            assert name == other
            parameter.copy_(trained)
    ours, theirs = resumed.state_dict_to_save(), network.state_dict_to_save()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("niter", [0, 4])
def test_signs_are_not_left_to_rounding(niter):
    draw = torch.Generator().manual_seed(0)
    for weight in torch.randn(12, 40, 30, generator=draw):
        up, down = principal_factors(weight, 4, niter, torch.Generator().manual_seed(0))
        assert torch.equal(down.amax(1), down.abs().amax(1))
        up_of_negative, down_of_negative = principal_factors(-weight, 4, niter, torch.Generator().manual_seed(0))
        torch.testing.assert_close((up_of_negative, down_of_negative), (-up, down), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_a_file_without_strength_is_not_continued(tiny, disturb, tmp_path, alpha):
    network = build_network(NetworkConfig(network_module="networks.pissa"), tiny().hosts, "sd1", seed=0)
    disturb(network)
    tensors = network.state_dict_to_save()
    altered = {name: torch.tensor(alpha) if name.endswith("alpha") else tensor for name, tensor in tensors.items()}
    save_lora(tmp_path / "a.safetensors", altered, {})
    config = NetworkConfig(
        network_module="networks.pissa", network_weights=str(tmp_path / "a.safetensors"), dim_from_weights=True
    )
    with pytest.raises(UserError, match="alpha above 0"):
        build_network(config, tiny().hosts, "sd1", seed=0)
