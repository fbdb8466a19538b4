"""LoKr against LyCORIS' own module, its files, and those of sd-scripts."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from library.lora_files.names.keys import Site, kind_of
from networks.algorithm import Base, ForwardContext, Size
from networks.build import build_network, check_network
from networks.lokr import LoKr, LoKrOptions, factorise

HOSTS = {
    "linear": lambda: nn.Linear(48, 64),
    "pointwise": lambda: nn.Conv2d(48, 64, 1),
    "conv": lambda: nn.Conv2d(48, 64, 3, padding=1),
    "strided": lambda: nn.Conv2d(48, 64, 3, stride=2, padding=1),
}
OPTIONS = [
    {},
    {"factor": 2},
    {"factor": 5},
    {"factor": 8, "decompose_both": True},
    {"factor": 4, "unbalanced_factorization": True},
    {"factor": 4, "use_tucker": True},
    {"full_matrix": True},
    {"full_matrix": True, "decompose_both": True},
]


def site_of(host):
    return Site("unet", "a", "lora_unet_a", kind_of(host), 1, host.double().requires_grad_(False))


@pytest.mark.parametrize("rank", [2, 20])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
def test_acts_as_that_of_lycoris(host, options, rank):
    module = pytest.importorskip("lycoris.modules.lokr").LokrModule
    site = site_of(host())
    theirs = module("a", site.module, 0.7, rank, 1.0, **options).double()
    with torch.no_grad():
        (theirs.lokr_w2 if theirs.use_w2 else theirs.lokr_w2_b).normal_(generator=torch.Generator().manual_seed(0))
    theirs.org_forward = site.module.forward
    saved = dict(theirs.state_dict())
    algorithm = LoKr(LoKrOptions(**options))
    planned = algorithm.adapter(site, Size(rank, 1.0), torch.Generator()).double()
    in_file = algorithm.adapter(site, algorithm.size_in_file(saved), torch.Generator()).double()
    x = torch.randn(2, 5, 48).double() if isinstance(site.module, nn.Linear) else torch.randn(2, 48, 6, 5).double()
    context, base = ForwardContext(multiplier=0.7), Base(site.module, site.module.forward, plain=True)
    for ours in (planned, in_file):
        assert {name: tensor.shape for name, tensor in ours.tensors().items()} == {n: t.shape for n, t in saved.items()}
        ours.load(saved)
        torch.testing.assert_close(ours(x, base, context), theirs(x), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.delta(), theirs.get_weight(theirs.shape), rtol=1e-5, atol=1e-6)
    assert planned.tensors()["alpha"] == saved["alpha"]


def test_numbers_are_split_as_by_lycoris():
    factorization = pytest.importorskip("lycoris.functional.general").factorization
    numbers = [*range(1, 100), 127, 128, 250, 320, 360, 512, 640, 768, 1024, 1280, 2048, 2816, 5120, 10240]
    for number in numbers:
        for factor in (-1, 1, 2, 3, 4, 5, 8, 10, 16, 32):
            assert factorise(number, factor) == factorization(number, factor), (number, factor)


def test_first_values_are_those_of_lycoris():
    adapter = LoKr(LoKrOptions(factor=40, decompose_both=True)).adapter(
        site_of(nn.Linear(4000, 4000)), Size(10, 1.0), torch.Generator().manual_seed(0)
    )
    values = dict(adapter.named_parameters())
    assert not values["lokr_w2_b"].any()
    for name in ("lokr_w1_a", "lokr_w1_b", "lokr_w2_a"):
        bound = values[name].shape[1] ** -0.5
        assert 0.97 * bound < values[name].abs().max() <= bound


def test_whole_matrices_of_a_pointwise_convolution_are_read_as_sd_scripts_writes_them():
    algorithm = LoKr(LoKrOptions(full_matrix=True))
    site = site_of(nn.Conv2d(48, 64, 1))
    tensors = {"lokr_w1": torch.randn(8, 6), "lokr_w2": torch.randn(8, 8), "alpha": torch.tensor(8.0)}
    size = algorithm.size_in_file(tensors)
    assert algorithm.shapes(site, size) == {"lokr_w1": (8, 6), "lokr_w2": (8, 8)}
    adapter = algorithm.adapter(site, size, torch.Generator())
    adapter.load(tensors)
    expected = torch.kron(tensors["lokr_w1"], tensors["lokr_w2"])
    torch.testing.assert_close(adapter.delta(), expected.view(64, 48, 1, 1))


def test_alpha_in_a_file_means_nothing_where_both_are_whole():
    algorithm = LoKr(LoKrOptions())
    tensors = {"lokr_w1": torch.randn(8, 6), "lokr_w2": torch.randn(8, 8)}
    site = site_of(nn.Linear(48, 64))
    for alpha in ({}, {"alpha": torch.tensor(3.0)}):
        adapter = algorithm.adapter(site, algorithm.size_in_file(tensors), torch.Generator())
        adapter.load({**tensors, **alpha})
        torch.testing.assert_close(adapter.delta(), torch.kron(tensors["lokr_w1"], tensors["lokr_w2"]))


def test_files_that_make_no_sense_are_refused():
    algorithm = LoKr(LoKrOptions())
    assert algorithm.size_in_file({"lora_down.weight": torch.zeros(4, 8)}) is None
    with pytest.raises(LookupError):
        algorithm.size_in_file({"lokr_w2": torch.zeros(4, 8)})
    size = algorithm.size_in_file({"lokr_w1": torch.zeros(5, 6), "lokr_w2": torch.zeros(8, 8)})
    with pytest.raises(UserError, match=r"lokr_w1 has the shape \[5, 6\], which does not divide \[64, 48\]"):
        algorithm.shapes(site_of(nn.Linear(48, 64)), size)


def test_names_in_a_file(tiny):
    arguments = {"conv_dim": 1, "factor": 4, "use_tucker": True, "decompose_both": True}
    config = NetworkConfig(network_module="networks.lokr", network_dim=1, network_args=arguments)
    saved = build_network(config, tiny("sd1").hosts, "sd1", seed=0).state_dict_to_save()
    linear = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_2"
    conv = "lora_unet_down_blocks_0_resnets_0_conv1"
    of = {key: {n.split(".", 1)[1]: tuple(t.shape) for n, t in saved.items() if n.split(".")[0] == key}
          for key in (linear, conv)}  # fmt: skip
    both = {"lokr_w1_a": (4, 1), "lokr_w1_b": (1, 4), "alpha": ()}
    assert of[linear] == {**both, "lokr_w2_a": (4, 1), "lokr_w2_b": (1, 16)}
    assert of[conv] == {**both, "lokr_t2": (1, 1, 3, 3), "lokr_w2_a": (1, 4), "lokr_w2_b": (1, 4)}
    assert "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lokr_w1_a" in saved


def test_whole_matrices_that_nobody_asked_for_are_told_once(tiny, caplog):
    def warnings(**arguments):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "dojo"):
            config = NetworkConfig(network_module="networks.lokr", network_dim=1000, network_args=arguments)
            build_network(config, tiny("sd1").hosts, "sd1", seed=0)
        return [record.getMessage() for record in caplog.records]

    [told] = warnings()
    assert "rank 1000" in told and "alpha has no effect" in told
    assert warnings(full_matrix=True) == []


def test_options_are_checked():
    for arguments, message in (({"factor": 0}, "factor = 0"), ({"factor": "-2"}, "factor"), ({"fator": 8}, "factor")):
        with pytest.raises(UserError, match=message):
            check_network(NetworkConfig(network_module="networks.lokr", network_args=arguments))
    with pytest.raises(UserError, match=r"network_dropout has no meaning for networks\.lokr"):
        check_network(NetworkConfig(network_module="networks.lokr", network_dropout=0.1))
