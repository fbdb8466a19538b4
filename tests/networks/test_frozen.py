"""What a state does not hold, and what a resumed run must therefore find as it was."""

from __future__ import annotations

import pytest
import torch

from library.config.schema.network import NetworkConfig
from networks.base import Rates
from networks.build import build_network
from networks.frozen import frozen_tensors
from tests.networks.cases import CASES

KEEPING = {"networks.lora_fa", "networks.pissa"}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_trained_values_upon_another_start_are_another_network_where_it_keeps_some(case, tiny, disturb):
    """As when a run is resumed whose network_weights has changed since: one network begins with a file, the other without."""
    options = {"network_alpha": 2, "network_args": dict(case.arguments)}

    def attached(seed, hosts):
        return build_network(NetworkConfig(network_module=case.module, **options), hosts, "sd1", seed)

    def trained(network):
        return [each for group in network.parameter_groups(Rates({"unet": 1e-3})) for each in group.parameters]

    unet = {"unet": tiny("sd1").hosts["unet"]}
    source = attached(4, unet)
    disturb(source, case.strength)
    file = source.state_dict_to_save()
    source.detach()
    first = attached(3, unet)
    first.load_saved(file)
    first.detach()
    second = attached(3, unet)
    with torch.no_grad():
        for target, value in zip(trained(second), trained(first), strict=True):
            target.copy_(value)
    key = next(iter(first.sites))
    assert torch.equal(first.delta(key), second.delta(key)) is (case.module not in KEEPING)
    assert bool(frozen_tensors(second)) is (case.module in KEEPING)


def test_layers_that_have_no_rate_are_kept(tiny):
    model = tiny("sd1")
    network = build_network(NetworkConfig(network_module="networks.lora"), model.hosts, "sd1", 3)
    network.parameter_groups(Rates({"unet": 1e-3}))
    kept = frozen_tensors(network)
    assert kept.keys() == {name for name, _ in network.named_parameters() if "lora_te" in name} != set()


def test_the_inside_of_a_foreign_network_is_not_known():
    assert frozen_tensors(object()) == {}
