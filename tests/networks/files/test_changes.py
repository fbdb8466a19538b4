"""What LoRA files change, told without a model in memory, against the networks of a loaded one."""

from __future__ import annotations

import pytest
import torch

from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from library.lora_files.file import read_lora, save_lora
from library.lora_files.low_rank.factors import Factors
from library.lora_files.names.places import places
from networks.build import build_network
from networks.files.changes import check_family, open_changes

FREE = ("networks.lora", "networks.loha", "networks.lokr")
BOUND = ("networks.dora", "networks.oft", "networks.ia3")
"""Those whose change depends on the weight."""


@pytest.fixture
def trained(tiny, disturb, tmp_path):
    """`trained(module)`: its changes by key, its file, and the places of the model."""

    def make(module):
        model = tiny("sd1")
        network = build_network(NetworkConfig(network_module=module, network_dim=2), model.hosts, "sd1", 0)
        disturb(network)
        path = tmp_path / f"{module}.safetensors"
        save_lora(path, network.state_dict_to_save(), {**network.metadata(), "ss_base_model_version": "sd_v1"})
        deltas = {key: network.delta(key).detach() for key in network.sites}
        weights = {key: site.module.weight for key, site in network.sites.items()}
        shapes = {
            host: {name: tuple(value.shape) for name, value in each.state_dict().items()}
            for host, each in model.hosts.items()
        }
        return deltas, weights, open_changes(path), places(shapes, "sd1")

    return make


@pytest.mark.parametrize("module", [*FREE, *BOUND])
def test_is_the_change_of_the_network(trained, module):
    deltas, weights, file, found = trained(module)
    for key, expected in deltas.items():
        change = file.change(key, lambda key: found[key].site(weights[key]))
        dense = change.dense() if isinstance(change, Factors) else change
        torch.testing.assert_close(dense, expected, rtol=1e-4, atol=1e-6)
    assert set(file.by_site) == set(deltas)


@pytest.mark.parametrize("module", FREE)
def test_needs_no_weights_where_the_kind_does_not(trained, module):
    deltas, _, file, found = trained(module)
    key = next(iter(deltas))
    change = file.change(key, lambda key: found[key].site())
    torch.testing.assert_close(
        change.dense() if isinstance(change, Factors) else change, deltas[key], rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("module", BOUND)
def test_says_that_it_needs_them_where_the_kind_does(trained, module):
    deltas, _, file, found = trained(module)
    with pytest.raises(UserError, match="Give the model with --base"):
        file.change(next(iter(deltas)), lambda key: found[key].site())


def test_a_file_that_does_not_tell_its_family_is_taken_for_what_is_said(trained, tmp_path):
    path = trained("networks.lora")[2].path
    tensors = {name: each for name, each in read_lora(path)[0].items() if name.startswith("lora_te_")}
    save_lora(tmp_path / "silent.safetensors", tensors, {})
    with pytest.raises(UserError, match="--family"):
        open_changes(tmp_path / "silent.safetensors")
    assert open_changes(tmp_path / "silent.safetensors", otherwise="sd2").family == "sd2"
    assert open_changes(path, otherwise="sd2").family == "sd1"
    with pytest.raises(UserError, match="is for sd1, and m is a model of the family sdxl"):
        check_family([open_changes(path)], "m", "sdxl")
