"""The example of a network that lives outside the project, brought in by dotted path and by entry point."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from library.core.registry import NETWORKS
from library.lora_files.file import save_lora
from networks.base import Rates
from networks.build import build_network
from networks.files.apply import apply_lora
from networks.files.merge import merge

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = DOCS / "examples" / "my_network"
RATES = Rates({"unet": 0.05, "te1": 0.05})


@pytest.fixture
def outside(monkeypatch):
    """The example's folder on the import path, as if it were installed; forgotten again afterwards."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.setattr(NETWORKS, "_registered", dict(NETWORKS._registered))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "my_network"]:
        del sys.modules[name]


@pytest.fixture
def installed(outside, tmp_path, monkeypatch):
    """What `pip install docs/examples/my_network` would leave: a dist-info folder with the entry points."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = tmp_path / "site" / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"[{group}]\n" + "".join(f"{name} = {path}\n" for name, path in entries.items())
             for group, entries in project["entry-points"].items()]  # fmt: skip
    (folder / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


def train(model, network, steps=6):
    groups = network.parameter_groups(RATES)
    optimizer = torch.optim.Adam([{"params": group.parameters, "lr": group.lr} for group in groups])
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model.predict().float() - 0.5).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", ["my_network.svdiff", "my_network.svdiff.SVDiff"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_by_dotted_path(outside, tiny, name, dtype):
    model = tiny("sd1", dtype)
    frozen = model.predict()
    config = NetworkConfig(network_module=name, network_args={"conv_dim": 1})
    network = build_network(config, model.hosts, "sd1", seed=0)
    assert torch.equal(model.predict(), frozen)
    losses = train(model, network)
    assert losses[-1] < losses[0]
    with network.enabled(False):
        assert torch.equal(model.predict(), frozen)


def test_a_kind_that_does_not_say_is_taken_to_draw_random_numbers(outside, tiny, monkeypatch):
    config = NetworkConfig(network_module="my_network.svdiff")
    assert not build_network(config, tiny("sd1").hosts, "sd1", seed=0).draws_random
    monkeypatch.delattr("my_network.svdiff.SVDiff.draws_random")
    assert build_network(config, tiny("sd1").hosts, "sd1", seed=0).draws_random


def test_a_kind_that_does_not_say_is_not_captured(outside, tiny, monkeypatch):
    config = NetworkConfig(network_module="my_network.svdiff")
    assert build_network(config, tiny("sd1").hosts, "sd1", seed=0).capturable
    monkeypatch.delattr("my_network.svdiff.SVDiff.capturable")
    assert not build_network(config, tiny("sd1").hosts, "sd1", seed=0).capturable


def test_by_entry_point(installed, tiny):
    assert "svdiff" in NETWORKS.names()
    model = tiny("sd1")
    config = NetworkConfig(network_module="svdiff", network_args={"layers": "attention"})
    network = build_network(config, model.hosts, "sd1", seed=0)
    parts = ("to_q", "to_k", "to_v", "to_out_0", "q_proj", "k_proj", "v_proj", "out_proj")
    assert all(key.endswith(parts) for key in network.sites)
    losses = train(model, network)
    assert losses[-1] < losses[0]


def test_it_acts_as_its_formula(outside, tiny, disturb):
    model = tiny("sd1")
    config = NetworkConfig(network_module="my_network.svdiff", network_args={"conv_dim": 1})
    network = build_network(config, model.hosts, "sd1", seed=0)
    disturb(network, 0.3)
    for key, site in network.sites.items():
        weight, shift = site.module.weight.double().flatten(1), network.adapters[key].shift.double()
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        expected = u @ torch.diag(torch.relu(s + shift)) @ v - weight
        torch.testing.assert_close(network.delta(key).double().flatten(1), expected, rtol=1e-3, atol=1e-4)


def test_its_files_are_recognised_and_merge(installed, tiny, tmp_path, disturb):
    config = NetworkConfig(network_module="svdiff", network_args={"conv_dim": 1})
    trained, loaded, continued = tiny(), tiny(), tiny()
    network = build_network(config, trained.hosts, "sd1", seed=0)
    disturb(network)
    file = tmp_path / "gains.safetensors"
    save_lora(file, network.state_dict_to_save(), network.metadata())
    acting = trained.predict()

    applied = apply_lora(file, loaded.hosts, "sd1")
    assert torch.equal(loaded.predict(), acting)
    again = NetworkConfig(network_module="svdiff", network_weights=str(file), dim_from_weights=True)
    build_network(again, continued.hosts, "sd1", seed=1)
    assert torch.equal(continued.predict(), acting)
    merge(applied)
    torch.testing.assert_close(loaded.predict(), acting, rtol=1e-4, atol=1e-5)
    report = network.limit_norms(0.01)
    assert report["keys_scaled"] > 0 and report["maximum_norm"] == pytest.approx(0.01)


def test_its_options_are_checked(outside, tiny):
    def build(**config):
        build_network(NetworkConfig(network_module="my_network.svdiff", **config), tiny().hosts, "sd1", seed=0)

    with pytest.raises(UserError, match='layers = "some": expected one of "all", "attention"'):
        build(network_args={"layers": "some"})
    with pytest.raises(UserError, match=r"unknown option 'layer'\. Did you mean 'layers'"):
        build(network_args={"layer": "all"})
    with pytest.raises(UserError, match="network_dropout"):
        build(network_dropout=0.1)


def test_a_module_without_a_network_is_named(outside, tiny):
    for name, hint in (
        ("my_network", "module without a network"),
        ("networks.by_layer.sizes", "register a class"),
        ("my_network.svdif", "cannot be imported"),
    ):
        with pytest.raises(UserError, match=hint):
            build_network(NetworkConfig(network_module=name), tiny().hosts, "sd1", seed=0)


def test_the_guide_shows_the_code_as_it_is():
    source = (EXAMPLE / "my_network" / "svdiff.py").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "adding_a_network.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 3
    assert [block for block in blocks if block not in source] == []
