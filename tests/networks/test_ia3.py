"""(IA)³ against LyCORIS' own module, its layers and its files."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from library.lora_files.names.keys import Site, kind_of
from library.models.quantised import PACKINGS, quantise, unpacked_weight
from networks.algorithm import Base, ForwardContext, Size
from networks.build import build_network, check_network
from networks.ia3 import IA3, IA3Adapter, IA3Options, IA3Size

HOSTS = {
    "linear": lambda: nn.Linear(12, 16),
    "no bias": lambda: nn.Linear(12, 16, bias=False),
    "conv": lambda: nn.Conv2d(12, 16, 3, stride=2, padding=1),
}


def inputs(host):
    return torch.randn(2, 5, 12) if isinstance(host, nn.Linear) else torch.randn(2, 12, 6, 5)


def trained_adapter(host, on_input):
    adapter = IA3Adapter(host.requires_grad_(False), on_input)
    with torch.no_grad():
        adapter.gain.normal_(generator=torch.Generator().manual_seed(0))
    return adapter


@pytest.mark.parametrize("on_input", [False, True])
@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
def test_acts_as_that_of_lycoris(host, on_input):
    module = pytest.importorskip("lycoris.modules.ia3").IA3Module
    host = host()
    ours, theirs = trained_adapter(host, on_input), module("a", host, 0.7, train_on_input=on_input)
    theirs.org_forward = host.forward
    saved = ours.tensors()
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in saved.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in theirs.state_dict().items()
    }
    theirs.load_state_dict(saved)
    x = inputs(host)
    base = Base(host, host.forward, plain=True)
    torch.testing.assert_close(ours(x, base, ForwardContext(multiplier=0.7)), theirs(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.delta(), theirs.get_diff_weight()[0])
    torch.testing.assert_close(ours.norm(), ours.delta().norm())
    site = Site("unet", "a", "lora_unet_a", kind_of(host), 1, host)
    assert IA3(IA3Options()).size_in_file(saved) == IA3Size(1, 1.0, on_input)
    assert IA3(IA3Options()).shapes(site, IA3Size(1, 1.0, on_input)) == {"weight": tuple(saved["weight"].shape)}


@pytest.mark.parametrize("on_input", [False, True])
@pytest.mark.parametrize("packing", ["int8", "fp8"])
def test_quantised_hosts(on_input, packing):
    host = nn.Linear(12, 16)
    quantise(host, PACKINGS[packing], PACKINGS[packing].pack(host.weight.detach()))
    adapter = trained_adapter(host, on_input)
    weight = unpacked_weight(host, torch.float32)
    x = inputs(host)
    gain = 1 + (adapter.gain if on_input else adapter.gain.view(-1, 1))
    expected = nn.functional.linear(x, weight * gain, host.bias)
    torch.testing.assert_close(adapter(x, Base(host, host.forward, plain=False), ForwardContext()), expected)
    torch.testing.assert_close(adapter.delta(), weight * (gain - 1))


def test_layers_and_where_they_act_are_those_of_lycoris_preset(tiny):
    """LyCORIS 4.1.3, preset "ia3": to_k, to_v and ff.net.2; k_proj, v_proj and mlp.fc2; the feed-forward ones on input."""
    network = build_network(NetworkConfig(network_module="networks.ia3"), tiny("sd1").hosts, "sd1", seed=0)
    on_input = {key: adapter.on_input for key, adapter in network.adapters.items()}
    assert all(key.endswith(("to_k", "to_v", "ff_net_2", "k_proj", "v_proj", "mlp_fc2")) for key in on_input)
    assert {key for key, value in on_input.items() if value} == {
        key for key in on_input if key.endswith(("ff_net_2", "mlp_fc2"))
    }
    everything = build_network(
        NetworkConfig(network_module="networks.ia3", network_args={"layers": "all"}), tiny("sd1").hosts, "sd1", seed=0
    )
    assert len(everything.sites) == len(build_network(NetworkConfig(), tiny("sd1").hosts, "sd1", seed=0).sites)


def test_names_in_a_file(tiny):
    saved = build_network(
        NetworkConfig(network_module="networks.ia3"), tiny("sd1").hosts, "sd1", 0
    ).state_dict_to_save()
    feed_forward = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_2"
    keys = "lora_te_text_model_encoder_layers_0_self_attn_k_proj"
    assert saved[f"{feed_forward}.weight"].shape == (64,) and saved[f"{feed_forward}.on_input"] == 1
    assert saved[f"{keys}.weight"].shape == (16,) and saved[f"{keys}.on_input"] == 0
    assert {name.split(".")[1] for name in saved} == {"weight", "on_input"}


def test_a_file_that_acts_elsewhere_is_refused():
    host = nn.Linear(16, 16)
    adapter = trained_adapter(host, on_input=True)
    with pytest.raises(ValueError, match="on_input is True where this network has False"):
        trained_adapter(host, on_input=False).load(adapter.tensors())
    assert IA3(IA3Options()).size_in_file({"weight": torch.zeros(3)}) is None


def test_options_are_checked():
    with pytest.raises(UserError, match='layers = "some": expected one of "paper", "all"'):
        check_network(NetworkConfig(network_module="networks.ia3", network_args={"layers": "some"}))
    with pytest.raises(UserError, match=r"network_dropout has no meaning for networks\.ia3"):
        check_network(NetworkConfig(network_module="networks.ia3", network_dropout=0.1))


def test_rank_is_not_asked():
    site = Site("unet", "a", "lora_unet_attn1_to_k", "linear", 1, nn.Linear(12, 16))
    small, large = (IA3(IA3Options()).adapter(site, Size(rank, 1.0), torch.Generator()) for rank in (1, 64))
    assert small.gain.shape == large.gain.shape == (16,)


def test_the_layer_may_wait_on_another_device():
    adapter = trained_adapter(nn.Linear(12, 16), on_input=False)
    adapter.to("meta")  # stands for a GPU; blocks_to_swap leaves the layer behind
    assert adapter.delta().is_meta and adapter.norm().is_meta
