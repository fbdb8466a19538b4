"""LoHa against LyCORIS' own module, and its files."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from library.lora_files.names.keys import Site, kind_of
from networks.algorithm import Base, ForwardContext, Size
from networks.build import build_network, check_network
from networks.loha import LoHa, LoHaOptions, LoHaSize

HOSTS = {
    "linear": lambda: nn.Linear(24, 16),
    "pointwise": lambda: nn.Conv2d(24, 16, 1),
    "conv": lambda: nn.Conv2d(24, 16, 3, padding=1),
}


def site_of(host):
    return Site("unet", "a", "lora_unet_a", kind_of(host), 1, host.double().requires_grad_(False))


@pytest.mark.parametrize("use_tucker", [False, True])
@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
def test_acts_as_that_of_lycoris(host, use_tucker):
    module = pytest.importorskip("lycoris.modules.loha").LohaModule
    site = site_of(host())
    theirs = module("a", site.module, 0.7, 3, 2.0, use_tucker=use_tucker).double()
    with torch.no_grad():
        theirs.hada_w2_a.normal_(generator=torch.Generator().manual_seed(0))
    theirs.org_forward = site.module.forward
    algorithm = LoHa(LoHaOptions(use_tucker=use_tucker))
    ours = algorithm.adapter(site, Size(3, 2.0), torch.Generator()).double()
    saved = dict(theirs.state_dict())
    assert {name: tensor.shape for name, tensor in ours.tensors().items()} == {n: t.shape for n, t in saved.items()}
    ours.load(saved)
    x = torch.randn(2, 5, 24).double() if isinstance(site.module, nn.Linear) else torch.randn(2, 24, 6, 5).double()
    context, base = ForwardContext(multiplier=0.7), Base(site.module, site.module.forward, plain=True)
    torch.testing.assert_close(ours(x, base, context), theirs(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.delta(), theirs.get_weight(theirs.shape).double(), rtol=1e-5, atol=1e-6)
    assert algorithm.size_in_file(saved) == LoHaSize(3, 2.0, use_tucker and site.kind == "conv3x3")


def test_first_values_are_those_of_lycoris():
    adapter = LoHa(LoHaOptions(use_tucker=True)).adapter(
        site_of(nn.Conv2d(500, 400, 3)), Size(40, 1.0), torch.Generator().manual_seed(0)
    )
    expected = {"hada_w1_a": 0.1, "hada_w1_b": 1, "hada_w2_a": 0, "hada_w2_b": 1, "hada_t1": 0.1, "hada_t2": 0.1}
    assert {name: pytest.approx(value.std().item(), rel=0.03) for name, value in adapter.named_parameters()} == expected


def test_names_in_a_file(tiny):
    config = NetworkConfig(network_module="networks.loha", network_args={"conv_dim": 2, "use_cp": True})
    saved = build_network(config, tiny("sd1").hosts, "sd1", seed=0).state_dict_to_save()
    linear = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    conv = "lora_unet_down_blocks_0_resnets_0_conv1"
    of = {key: {n.split(".", 1)[1]: tuple(t.shape) for n, t in saved.items() if n.split(".")[0] == key}
          for key in (linear, conv)}  # fmt: skip
    matrices = {"hada_w1_a": (16, 4), "hada_w1_b": (4, 16), "hada_w2_a": (16, 4), "hada_w2_b": (4, 16), "alpha": ()}
    assert of[linear] == matrices
    small = {"hada_w1_a": (2, 16), "hada_w1_b": (2, 16), "hada_w2_a": (2, 16), "hada_w2_b": (2, 16), "alpha": ()}
    assert of[conv] == {**small, "hada_t1": (2, 2, 3, 3), "hada_t2": (2, 2, 3, 3)}
    assert "lora_te_text_model_encoder_layers_0_self_attn_q_proj.hada_w1_a" in saved


def test_other_files_are_not_taken_for_its_own():
    loha = LoHa(LoHaOptions())
    assert loha.size_in_file({"lora_down.weight": torch.zeros(4, 8), "alpha": torch.tensor(1.0)}) is None
    with pytest.raises(ValueError, match="finite"):
        loha.size_in_file({"hada_w1_b": torch.zeros(4, 8), "alpha": torch.tensor(float("nan"))})
    adapter = loha.adapter(site_of(nn.Linear(24, 16)), Size(3, 2.0), torch.Generator())
    tensors = adapter.tensors()
    with pytest.raises(ValueError, match="dora_scale"):
        adapter.load({**tensors, "dora_scale": torch.ones(16, 1)})
    with pytest.raises(ValueError, match="hada_w2_b"):
        adapter.load({name: tensor for name, tensor in tensors.items() if name != "hada_w2_b"})


def test_network_dropout_is_refused():
    with pytest.raises(UserError, match=r"network_dropout has no meaning for networks\.loha"):
        check_network(NetworkConfig(network_module="networks.loha", network_dropout=0.1))


def test_loraplus_speeds_up_what_starts_at_zero(tiny):
    from networks.base import Rates

    config = NetworkConfig(network_module="networks.loha", network_args={"loraplus_lr_ratio": 8})
    network = build_network(config, tiny("sd1").hosts, "sd1", seed=0)
    groups = {group.name: group for group in network.parameter_groups(Rates({"unet": 1.0}))}
    assert groups["unet plus"].lr == 8.0
    assert not any(parameter.any() for parameter in groups["unet plus"].parameters)
    assert all(parameter.any() for parameter in groups["unet"].parameters)
