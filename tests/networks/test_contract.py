"""Promises that every network keeps, whatever its algorithm."""

from __future__ import annotations

import pytest
import torch

from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from library.core.registry import NETWORKS
from library.lora_files.file import save_lora
from networks.base import Rates
from networks.build import build_network, check_network, find_plugin
from networks.files.apply import apply_lora
from networks.files.merge import merge
from tests.networks.cases import CASES, ONE_OF_EACH

RATES = Rates({"unet": 1e-3, "te1": 1e-3})
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 0.05}
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 0.01}
"""A whole model's outputs differ by this much where the same products are summed in another order."""

WAYS = [
    *((case, "conv", torch.float32) for case in CASES),
    *((case, "conv", torch.bfloat16) for case in ONE_OF_EACH),
    *((CASES[0], "linear", dtype) for dtype in (torch.float32, torch.bfloat16)),
]
"""With convolutions a network acts on the linear layers too."""


@pytest.fixture(params=WAYS, ids=lambda way: f"{way[0]}-{way[1]}-{str(way[2])[6:]}")
def case(tiny, disturb, request):
    """(model, attach, case): attach(**config) puts the case's network into the model, disturbed unless asked otherwise."""
    case, scope, dtype = request.param
    model = tiny("sd1", dtype)

    def attach(disturbed=True, seed=3, **config):
        arguments = {"conv_dim": 2, "conv_alpha": 1} if scope == "conv" else {}
        asked = {"network_alpha": 2, **config}
        asked["network_args"] = {**arguments, **case.arguments, **asked.get("network_args", {})}
        network = build_network(NetworkConfig(network_module=case.module, **asked), model.hosts, "sd1", seed)
        network.train()
        if disturbed:
            disturb(network, case.strength)
        return network

    return model, attach, case


def test_every_network_stands_in_the_matrix():
    assert {name for name in NETWORKS.names() if name.startswith("networks.")} == {case.module for case in CASES}


def equal_but_for_rounding(one, other):
    return (one - other).float().norm() <= ROUNDING[one.dtype] * other.float().norm()


def gradients(model, network):
    parameters = [parameter for group in network.parameter_groups(RATES) for parameter in group.parameters]
    loss = model.predict().float().square().mean() + model.encode("te1").float().square().mean()
    return torch.autograd.grad(loss, parameters)


def test_changes_nothing_before_training(case):
    model, attach, _ = case
    before = model.predict(), model.encode("te1")
    attach(disturbed=False)
    assert equal_but_for_rounding(model.predict(), before[0])
    assert equal_but_for_rounding(model.encode("te1"), before[1])


def test_keeps_the_hosts_as_they_are(case):
    model, attach, _ = case
    before = {name: value.clone() for host in model.hosts.values() for name, value in host.state_dict().items()}
    paths = [path for host in model.hosts.values() for path, _ in host.named_modules()]
    network = attach()
    gradients(model, network)
    after = {name: value for host in model.hosts.values() for name, value in host.state_dict().items()}
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert paths == [path for host in model.hosts.values() for path, _ in host.named_modules()]
    assert not any(parameter.requires_grad for host in model.hosts.values() for parameter in host.parameters())


def test_disabled_is_exactly_frozen(case):
    model, attach, _ = case
    before = model.predict()
    network = attach()
    network.train(False)
    changed = model.predict()
    with network.enabled(False):
        assert torch.equal(model.predict(), before)
        with network.enabled(True):
            assert torch.equal(model.predict(), changed)
        assert torch.equal(model.predict(), before)
    assert torch.equal(model.predict(), changed) and not torch.equal(changed, before)


def test_every_parameter_is_fp32_and_learns(case):
    model, attach, _ = case
    network = attach()
    grouped = [parameter for group in network.parameter_groups(RATES) for parameter in group.parameters]
    assert len(grouped) == len({id(parameter) for parameter in grouped}) > 0
    found = gradients(model, network)
    assert all(parameter.dtype == gradient.dtype == torch.float32 for parameter, gradient in zip(grouped, found))
    assert all(gradient.isfinite().all() and gradient.any() for gradient in found)


def test_gradient_checkpointing_gives_the_same_gradients(case):
    model, attach, kind = case
    network = attach(**(kind.dropout or {}))
    torch.manual_seed(5)
    plain = gradients(model, network)
    for host in model.hosts.values():
        host.train()
        switch = getattr(host, "gradient_checkpointing_enable", None) or host.enable_gradient_checkpointing
        switch()
    torch.manual_seed(5)
    checkpointed = gradients(model, network)
    if kind.dropout:  # the fused products of the others are summed in another order
        assert all(torch.equal(a, b) for a, b in zip(plain, checkpointed))
    one, other = (torch.cat([each.flatten() for each in found]) for found in (plain, checkpointed))
    assert (one - other).norm() <= ROUNDING[model.dtype] * other.norm()


def test_dropout_acts_in_training_only(case):
    model, attach, kind = case
    if kind.dropout is None:
        with pytest.raises(UserError, match="network_dropout"):
            attach(network_dropout=0.5)
        return
    network = attach(**kind.dropout)
    assert not torch.equal(model.predict(), model.predict())
    network.train(False)
    assert torch.equal(model.predict(), model.predict())


def test_merged_weights_act_as_the_network(case):
    model, attach, _ = case
    frozen = model.predict(), model.encode("te1")
    network = attach()
    network.train(False)
    network.set_multiplier(0.7)
    acting = model.predict(), model.encode("te1")
    merge(network, 0.7)
    for was, now, merged in zip(frozen, acting, (model.predict(), model.encode("te1"))):
        assert (merged - now).float().norm() < TOLERANCE[model.dtype] * now.float().norm()
        assert (now - was).float().norm() > 5 * (merged - now).float().norm()


def test_multiplier_zero_is_frozen(case):
    model, attach, _ = case
    before = model.predict()
    network = attach()
    network.set_multiplier(0.0)
    assert equal_but_for_rounding(model.predict(), before)


def test_saved_tensors_load_into_another_network(case):
    model, attach, _ = case
    network = attach()
    network.train(False)
    acting, saved = model.predict(), network.state_dict_to_save()
    assert {tensor.dtype for tensor in saved.values() if tensor.is_floating_point()} == {torch.float32}
    network.detach()
    other = attach(disturbed=False, seed=99)
    other.train(False)
    assert not torch.equal(model.predict(), acting)
    other.load_saved(saved)
    assert torch.equal(model.predict(), acting)
    again = other.state_dict_to_save()
    assert again.keys() == saved.keys() and all(torch.equal(again[name], saved[name]) for name in saved)


def test_saved_tensors_stay_while_training_goes_on(case):
    """A thread writes them meanwhile."""
    _, attach, _ = case
    network = attach()
    saved = network.state_dict_to_save()
    then = {name: tensor.clone() for name, tensor in saved.items()}
    with torch.no_grad():
        for group in network.parameter_groups(RATES):
            for parameter in group.parameters:
                parameter.fill_(7)
    assert all(torch.equal(saved[name], then[name]) for name in saved)


def test_a_saved_file_is_recognised_and_acts_the_same(case, tmp_path):
    model, attach, _ = case
    network = attach()
    network.train(False)
    acting = model.predict()
    save_lora(tmp_path / "lora.safetensors", network.state_dict_to_save(), network.metadata())
    network.detach()
    applied = apply_lora(tmp_path / "lora.safetensors", model.hosts, "sd1")
    assert equal_but_for_rounding(model.predict(), acting)
    applied.detach()
    again = attach(False, network_weights=str(tmp_path / "lora.safetensors"), dim_from_weights=True)
    again.train(False)
    assert equal_but_for_rounding(model.predict(), acting)


def test_norms_are_limited(case):
    _, attach, kind = case
    if not find_plugin(kind.module).scalable:
        with pytest.raises(UserError, match="scale_weight_norms"):
            check_network(NetworkConfig(network_module=kind.module, scale_weight_norms=1.0))
        return
    network = attach()
    before = torch.stack([network.delta(key).norm() for key in network.sites])
    maximum = before.median().item() * 1.001  # not itself one of the norms
    report = network.limit_norms(maximum)
    after = torch.stack([network.delta(key).norm() for key in network.sites])
    torch.testing.assert_close(after, before.clamp(max=maximum), rtol=1e-4, atol=1e-6)
    assert report["keys_scaled"] == (before > maximum).sum() > 0
    assert report["maximum_norm"] == pytest.approx(after.max().item(), rel=1e-4)
    assert report["average_norm"] == pytest.approx(after.mean().item(), rel=1e-4)


def test_initial_weights_depend_on_the_seed_alone(case):
    _, attach, kind = case
    first = attach(disturbed=False)
    first.detach()
    torch.manual_seed(1234)
    second = attach(disturbed=False)
    second.detach()
    third = attach(disturbed=False, seed=4)
    a, b, c = (network.state_dict_to_save() for network in (first, second, third))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a) == kind.random_start
