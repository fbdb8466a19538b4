"""LoRA-FA: what is trained, and that all else is LoRA's."""

from __future__ import annotations

import torch
from torch import nn

from library.config.schema.network import NetworkConfig
from networks.algorithm import Size
from networks.base import Rates
from networks.build import build_network
from networks.lora import Dropouts, LoRAAdapter
from networks.lora_fa import LoRAFAAdapter

RATES = Rates({"unet": 1e-3, "te1": 1e-3})


def build(model, module, **config):
    return build_network(NetworkConfig(network_module=module, network_dim=3, **config), model.hosts, "sd1", seed=1)


def gradients(model, network):
    parameters = [parameter for group in network.parameter_groups(RATES) for parameter in group.parameters]
    network.train()
    return torch.autograd.grad(model.predict().square().mean() + model.encode("te1").square().mean(), parameters)


def test_trains_the_ups_alone_and_with_loras_gradients(tiny, disturb):
    model = tiny()
    frozen, learning = (
        build(model, name, network_args={"conv_dim": 2}) for name in ("networks.lora_fa", "networks.lora")
    )
    learning.detach()
    frozen.detach()
    assert {name.rpartition(".")[2] for name, _ in frozen.named_parameters()} == {"up"}
    disturb(frozen)
    saved = frozen.state_dict_to_save()
    found, wanted = [], []
    for network, into in ((frozen, found), (learning, wanted)):
        fresh = tiny()
        network = build(fresh, "networks.lora_fa" if into is found else "networks.lora", network_args={"conv_dim": 2})
        network.load_saved(saved)
        names = [name for name, _ in network.named_parameters()]
        into += [grad for name, grad in zip(names, gradients(fresh, network)) if name.endswith("up")]
    assert len(found) == len(wanted) == len(saved) // 3
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-9)


def test_starts_and_stays_with_the_down_that_the_seed_draws(tiny, disturb):
    first, second = build(tiny(), "networks.lora_fa"), build(tiny(), "networks.lora")
    disturb(first)
    ours, loras = first.state_dict_to_save(), second.state_dict_to_save()
    assert all(torch.equal(ours[name], loras[name]) for name in ours if name.endswith("lora_down.weight"))


def test_scaling_leaves_down_alone():
    adapter = LoRAFAAdapter(nn.Linear(6, 8), Size(2, 1.0), Dropouts(), torch.Generator().manual_seed(0))
    with torch.no_grad():
        adapter.up.normal_()
    before, down = adapter.delta(), adapter.down.clone()
    adapter.scale_delta(torch.tensor(0.3))
    torch.testing.assert_close(adapter.delta(), before * 0.3)
    assert torch.equal(adapter.down, down)


def test_takes_the_file_of_a_lora(tiny, disturb):
    lora = build(tiny(), "networks.lora")
    disturb(lora)
    network = build(tiny(), "networks.lora_fa")
    network.load_saved(lora.state_dict_to_save())
    for key in lora.sites:
        assert torch.equal(network.delta(key), lora.delta(key))
    assert isinstance(next(iter(network.adapters.values())), LoRAAdapter)
