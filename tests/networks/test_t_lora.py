"""T-LoRA: the ranks that act at each timestep."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from library.lora_files.file import save_lora
from library.lora_files.names.keys import Site
from networks.algorithm import ForwardContext, Size
from networks.base import Rates
from networks.build import build_network, check_network
from networks.files.apply import apply_lora
from networks.inject import hook
from networks.t_lora import TLoRA, TLoRAOptions, last_timestep

T = 1000


def ranks_of_the_paper(t, rank, lowest, exponent):
    return math.floor(((T - t) / T) ** exponent * (rank - lowest) + 1e-9) + lowest


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0, 3.7])
@pytest.mark.parametrize(("rank", "lowest"), [(1, 1), (8, 1), (8, 4), (32, 16), (10, 0)])
def test_as_many_ranks_act_as_the_paper_says(rank, lowest, exponent):
    last = [last_timestep(index, rank, lowest, exponent) for index in range(rank)]
    for t in range(T + 1):
        assert sum(t <= each for each in last) == ranks_of_the_paper(t, rank, lowest, exponent), t


def adapter_on(host, host_name="unet", rank=8, **options):
    host.requires_grad_(False)
    site = Site(host_name, "a", "lora_a", "linear", None, host)
    adapter = TLoRA(TLoRAOptions(**options)).adapter(site, Size(rank, 4.0), torch.Generator().manual_seed(0))
    with torch.no_grad():
        adapter.up.normal_(generator=torch.Generator().manual_seed(1))
    context = ForwardContext()
    hook(host, adapter, context)
    return adapter, context


@pytest.mark.parametrize(
    ("host", "shape"),
    [(nn.Linear(6, 9), (3, 6)), (nn.Linear(6, 9), (3, 5, 6)), (nn.Conv2d(6, 9, 3), (3, 6, 5, 8))],
    ids=str,
)
def test_each_sample_has_the_ranks_of_its_timestep(host, shape):
    host = nn.Linear(6, 9) if isinstance(host, nn.Linear) else nn.Conv2d(6, 9, 3)
    adapter, context = adapter_on(host, min_rank=2, alpha_rank_scale=1.5)
    x, t_B = torch.randn(shape), torch.tensor([0, 400, 999])
    context.timesteps_B = t_B
    y = host(x)
    grads = torch.autograd.grad(y.square().sum(), (adapter.down, adapter.up))
    expected = []
    down, up = (nn.Parameter(each.detach().clone()) for each in (adapter.down, adapter.up))
    for sample, t in zip(x, t_B.tolist()):
        ranks = ranks_of_the_paper(t, 8, 2, 1.5)
        change = (up[:, :ranks].flatten(1) @ down[:ranks].flatten(1)).view_as(host.weight) * 4.0 / 8
        plain = nn.functional.linear if isinstance(host, nn.Linear) else nn.functional.conv2d
        expected.append(plain(sample[None], host.weight + change, host.bias)[0])
    torch.testing.assert_close(y, torch.stack(expected), rtol=1e-4, atol=1e-5)
    for found, wanted in zip(grads, torch.autograd.grad(torch.stack(expected).square().sum(), (down, up))):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)
    context.timesteps_B = None
    whole = nn.functional.linear if isinstance(host, nn.Linear) else nn.functional.conv2d
    torch.testing.assert_close(host(x), whole(x, host.weight + adapter.delta(), host.bias), rtol=1e-4, atol=1e-5)


def test_text_encoders_have_every_rank():
    host = nn.Linear(6, 9)
    adapter, context = adapter_on(host, "te1", min_rank=1)
    context.timesteps_B = torch.tensor([999] * 3)  # of the UNet's batch, whatever the text encoder's is
    x = torch.randn(2, 5, 6)
    torch.testing.assert_close(host(x), nn.functional.linear(x, host.weight + adapter.delta(), host.bias))


@pytest.mark.parametrize(("given", "acting"), [(0.5, 4), (0.3, 3), (3, 3), ("2", 2), (100, 8), (0.01, 1)])
def test_min_rank_is_a_share_or_a_number(given, acting):
    network_args = {"min_rank": given}
    check_network(NetworkConfig(network_module="networks.t_lora", network_args=network_args))
    adapter, _ = adapter_on(nn.Linear(6, 9), min_rank=float(given))
    assert int((adapter.last_timestep_R >= T).sum()) == acting


@pytest.mark.parametrize("given", [0, -1, 1.5, "half", True])
def test_other_ranks_are_refused(given):
    with pytest.raises(UserError, match=r"min_rank.*a whole number of ranks, or a share"):
        check_network(NetworkConfig(network_module="networks.t_lora", network_args={"min_rank": given}))


def test_orthogonal_rows_are_as_long_as_loras():
    adapter, _ = adapter_on(nn.Conv2d(6, 9, 3), orthogonal=True)
    rows = adapter.down.flatten(1)
    torch.testing.assert_close(rows @ rows.t(), torch.eye(8) / 3, rtol=1e-4, atol=1e-6)


def test_a_file_is_put_onto_a_model_with_its_own_ranks(tiny, disturb, tmp_path):
    model = tiny()
    arguments = {"min_rank": 1, "alpha_rank_scale": 2.0}
    config = NetworkConfig(network_module="networks.t_lora", network_dim=6, network_args=arguments)
    network = build_network(config, model.hosts, "sd1", seed=0)
    disturb(network)
    network.set_timestep(torch.tensor([10, 700]))
    acting = model.predict()
    save_lora(tmp_path / "t.safetensors", network.state_dict_to_save(), network.metadata())
    network.set_timestep(torch.tensor([0, 0]))
    at_full_rank = model.predict()
    network.detach()
    applied = apply_lora(tmp_path / "t.safetensors", model.hosts, "sd1")
    applied.set_timestep(torch.tensor([10, 700]))
    assert torch.equal(model.predict(), acting)
    assert not torch.allclose(at_full_rank, acting, atol=1e-4)


def test_ranks_are_only_trained_where_they_act(tiny, disturb):
    model = tiny()
    config = NetworkConfig(network_module="networks.t_lora", network_dim=4, network_args={"min_rank": 1})
    network = build_network(config, model.hosts, "sd1", seed=0)
    disturb(network)
    network.train().set_timestep(torch.tensor([990, 995]))
    groups = network.parameter_groups(Rates({"unet": 1e-3, "te1": 1e-3}))
    ups = {id(adapter.up): key for key, adapter in network.adapters.items() if network.sites[key].host == "unet"}
    parameters = [parameter for group in groups for parameter in group.parameters if id(parameter) in ups]
    for grad in torch.autograd.grad(model.predict().square().mean(), parameters):
        assert grad[:, 0].any() and not grad[:, 1:].any()
