"""Networks that speak sd-scripts' protocol."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from library.lora_files.file import save_lora
from library.lora_files.names.keys import sites
from networks.base import Rates
from networks.build import build_network, check_network
from networks.foreign import as_text

RATES = Rates({"unet": 1e-2, "te1": 1e-3})


class Scaling(nn.Module):
    """Multiplies a linear's output by 1 + gain, after the fashion of sd-scripts' modules: no care for precision."""

    def __init__(self, name, host):
        super().__init__()
        self.lora_name, self.multiplier, self.host = name, 1.0, [host]
        self.gain = nn.Parameter(torch.zeros(host.out_features))
        self.mix = nn.Linear(host.out_features, host.out_features, bias=False)

    def apply_to(self):
        self.former = self.host[0].forward
        self.host[0].forward = self.forward

    def forward(self, x):
        y = self.former(x)
        return y + self.multiplier * self.mix(y) * self.gain


class Gains(nn.Module):
    """sd-scripts' protocol, the least of it."""

    def __init__(self, text_encoder, unet, dim):
        super().__init__()
        encoders = text_encoder if isinstance(text_encoder, list) else [text_encoder]
        prefixes = ["lora_te"] if len(encoders) == 1 else ["lora_te1", "lora_te2"]
        self.dim = dim
        self.encoder_parts = [
            part for prefix, host in zip(prefixes, encoders) for part in self.parts(prefix, host, "CLIPMLP")
        ]
        self.unet_parts = list(self.parts("lora_unet", unet, "Attention"))
        self.epochs = self.steps = 0

    @staticmethod
    def parts(prefix, root, parent):
        for name, module in root.named_modules():
            if type(module).__name__ == parent:
                for child, linear in module.named_modules():
                    if isinstance(linear, nn.Linear):
                        yield Scaling(f"{prefix}.{name}.{child}".replace(".", "_"), linear)

    def apply_to(self, text_encoder, unet, apply_text_encoder=True, apply_unet=True):
        for part in (self.encoder_parts if apply_text_encoder else []) + (self.unet_parts if apply_unet else []):
            part.apply_to()
            self.add_module(part.lora_name, part)

    def prepare_optimizer_params(self, text_encoder_lr, unet_lr, default_lr):
        groups = [(self.encoder_parts, text_encoder_lr), (self.unet_parts, unet_lr)]
        return [{"params": [p for part in parts for p in part.parameters()], "lr": lr} for parts, lr in groups if parts]

    def set_multiplier(self, multiplier):
        for part in self.encoder_parts + self.unet_parts:
            part.multiplier = multiplier

    def prepare_grad_etc(self, text_encoder, unet):
        self.requires_grad_(True)

    def on_epoch_start(self, text_encoder, unet):
        self.epochs += 1

    def on_step_start(self, text_encoder, unet):
        self.steps += 1

    def load_weights(self, file):
        return self.load_state_dict(load_file(file), False)

    def save_weights(self, file, dtype, metadata):
        save_file(self.state_dict(), file, metadata or None)


@pytest.fixture
def gains(monkeypatch):
    """The name of a module with `create_network`, which records what it is given."""
    module = ModuleType("foreign.gains")
    module.calls = []

    def create_network(multiplier, network_dim, network_alpha, vae, text_encoder, unet, neuron_dropout=None, **kwargs):
        module.calls.append((multiplier, network_dim, network_alpha, vae, neuron_dropout, kwargs))
        return Gains(text_encoder, unet, network_dim)

    def create_network_from_weights(multiplier, file, vae, text_encoder, unet, weights_sd=None, **kwargs):
        module.calls.append(sorted(load_file(file)))
        return Gains(text_encoder, unet, None), load_file(file)

    module.create_network, module.create_network_from_weights = create_network, create_network_from_weights
    monkeypatch.setitem(sys.modules, "foreign.gains", module)
    return module


def attach(model, **config):
    return build_network(NetworkConfig(network_module="foreign.gains", **config), model.hosts, model.family, seed=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_lives_in_the_hosts_as_our_own(gains, tiny, disturb, family, dtype):
    model = tiny(family, dtype)
    frozen, names = model.predict(), list(model.hosts["unet"].state_dict())
    network = attach(model)
    assert torch.equal(model.predict(), frozen) and names == list(model.hosts["unet"].state_dict())
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    disturb(network)
    changed = model.predict()
    assert changed.dtype == dtype and not torch.equal(changed, frozen)
    with network.enabled(False):
        assert torch.equal(model.predict(), frozen)
    network.set_multiplier(0.0)
    assert torch.equal(model.predict(), frozen)


def test_learns(gains, tiny):
    model = tiny("sd1", torch.bfloat16)
    network = attach(model)
    groups = network.parameter_groups(RATES)
    assert [(group.name, group.lr) for group in groups] == [("group0", 1e-3), ("group1", 1e-2)]
    optimizer = torch.optim.Adam([{"params": group.parameters, "lr": group.lr} for group in groups])
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = (model.predict().float() - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_rates_that_are_absent_freeze(gains, tiny):
    network = attach(tiny("sd1"))
    groups = network.parameter_groups(Rates({"unet": 1e-2}))
    assert len(groups) == 1
    trained = sum(parameter.requires_grad for parameter in network.parameters())
    assert trained == len(groups[0].parameters) < len(list(network.parameters()))


def test_arguments_arrive_as_text_as_from_sd_scripts(gains, tiny):
    attach(tiny("sd1"), network_dim=7, network_alpha=2, network_dropout=0.1, network_args={"factor": 4, "deep": True})
    assert gains.calls == [(1.0, 7, 2, None, 0.1, {"factor": "4", "deep": "True", "dropout": 0.1})]
    assert as_text([1, 2.5]) == "1,2.5"


def test_initial_weights_depend_on_the_seed_and_leave_the_global_generator_alone(gains, tiny):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = attach(tiny("sd1")).state_dict_to_save()
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    second = attach(tiny("sd1")).state_dict_to_save()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_model_on_the_cpu_leaves_the_generators_of_gpus_alone(gains, tiny, monkeypatch):
    """Left to itself torch saves every GPU's, and warns that this takes time."""
    model, saved = tiny("sd1"), []

    def noting(devices=None, fork_rng=torch.random.fork_rng, **named):
        saved.append(devices)
        return fork_rng(devices=[])

    monkeypatch.setattr(torch.random, "fork_rng", noting)
    attach(model)
    assert saved == [[]]


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_files_have_the_names_that_other_programs_read(gains, tiny, disturb, family, tmp_path):
    model = tiny(family)
    network = attach(model)
    disturb(network)
    saved, acting = network.state_dict_to_save(), model.predict()
    keys = {name.split(".")[0] for name in saved}
    assert keys <= {site.key for site in sites(model.hosts, family, conv=True)}

    save_lora(tmp_path / "gains.safetensors", saved, {})
    for config in ({}, {"dim_from_weights": True}):
        other = tiny(family)
        attach(other, network_weights=str(tmp_path / "gains.safetensors"), **config)
        assert torch.equal(other.predict(), acting)


def test_a_file_of_something_else_is_refused(gains, tiny):
    network = attach(tiny("sd1"))
    saved = network.state_dict_to_save()
    name = sorted(saved)[0]
    with pytest.raises(UserError, match=name):
        network.load_saved({**saved, name: torch.zeros(1, 2, 3)})
    with pytest.raises(UserError, match="lora_unet_nothing"):
        network.load_saved({**saved, "lora_unet_nothing.gain": torch.zeros(1)})


def test_what_it_cannot_do_is_said(gains, tiny):
    model = tiny("sdxl")
    network = attach(model)
    with pytest.raises(UserError, match="scale_weight_norms"):
        network.limit_norms(1.0)
    with pytest.raises(UserError, match="text_encoder_lr"):
        network.parameter_groups(Rates({"unet": 1.0, "te1": 1.0, "te2": 2.0}))
    gains.create_network = lambda *args, **kwargs: (_ for _ in ()).throw(ValueError("no such algo"))
    with pytest.raises(UserError, match="no such algo"):
        attach(tiny("sd1"))


def test_events_are_passed_on(gains, tiny):
    network = attach(tiny("sd1"))
    network.start_epoch(0)
    network.set_timestep(torch.tensor([3]))
    network.set_timestep(torch.tensor([4]))
    assert (network._network.epochs, network._network.steps) == (1, 2)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_lycoris_with_the_preset_that_it_takes_unasked(tiny, family):
    model = tiny(family)
    config = NetworkConfig(network_module="lycoris.kohya", network_args={"algo": "lokr", "conv_dim": 2})
    saved = build_network(config, model.hosts, family, seed=3).state_dict_to_save()
    keys = {name.split(".")[0] for name in saved}
    assert {site.key for site in sites(model.hosts, family, conv=True)} <= keys
    assert any("time_embed" in key for key in keys)


@pytest.mark.parametrize(("algo", "family"), [("lora", "sd1"), ("loha", "sd2"), ("lokr", "sdxl")])
def test_lycoris(tiny, disturb, algo, family):
    model = tiny(family, torch.bfloat16)
    frozen = model.predict(), model.encode("te1")
    config = NetworkConfig(network_module="lycoris.kohya", network_args={"algo": algo, "preset": "attn-mlp"})
    network = build_network(config, model.hosts, family, seed=3)
    assert torch.equal(model.predict(), frozen[0])
    disturb(network, 0.3)
    acting = model.predict(), model.encode("te1")
    assert all(not torch.equal(a, b) for a, b in zip(acting, frozen))
    with network.enabled(False):
        assert torch.equal(model.predict(), frozen[0])

    saved = network.state_dict_to_save()
    embeddings = {"time_embedding_linear_1", "time_embedding_linear_2"}
    if family == "sdxl":
        embeddings = {"time_embed_0", "time_embed_2", "label_emb_0_0", "label_emb_0_2"}
    known = {site.key for site in sites(model.hosts, family, conv=False)} | {f"lora_unet_{name}" for name in embeddings}
    assert {name.split(".")[0] for name in saved} - known == set()
    report = network.limit_norms(0.01)
    assert report["keys_scaled"] > 0 and report["maximum_norm"] <= 0.0101

    other = tiny(family, torch.bfloat16)
    build_network(config, other.hosts, family, seed=99).load_saved(saved)
    assert torch.equal(other.predict(), acting[0]) and torch.equal(other.encode("te1"), acting[1])


def test_quantised_weights_are_refused(gains, tiny):
    model = tiny()
    layer = model.hosts["unet"].mid_block.resnets[0].conv1
    layer.weight = torch.nn.Parameter(torch.zeros(layer.weight.shape, dtype=torch.int8), requires_grad=False)
    with pytest.raises(UserError, match="leave out quantize_base"):
        attach(model)


def test_what_lycoris_does_not_know_is_told(tiny, caplog):
    check_network(
        NetworkConfig(network_module="lycoris.kohya", network_args={"algo": "lokr", "factr": 3, "conv_dim": 4})
    )
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "'factr' stands nowhere in the source of lycoris.kohya" in record.getMessage()
    assert "Did you mean 'factor'" in record.getMessage()
    with pytest.raises(UserError, match=r"lokrr.*Did you mean 'lokr'"):
        build_network(
            NetworkConfig(network_module="lycoris.kohya", network_args={"algo": "lokrr"}), tiny().hosts, "sd1", seed=0
        )


def test_a_preset_of_lycoris_does_not_stay_for_the_next_network(tiny):
    def keys(**arguments):
        config = NetworkConfig(network_module="lycoris.kohya", network_args={"algo": "lokr", **arguments})
        network = build_network(config, tiny().hosts, "sd1", seed=3)
        return {name.split(".")[0] for name in network.state_dict_to_save()}

    before = keys(preset="attn-mlp")
    assert keys(preset="unet-convblock-only", conv_dim=2) != before
    assert keys(preset="attn-mlp") == before
