"""PEFT's tuners: what they compute, against their papers' formulas, and that files find their options again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from library.kernels.convolution import freeze_convolutions
from library.lora_files.file import save_lora
from networks.build import build_network
from networks.files.apply import apply_lora
from networks.files.merge import merge
from networks.peft import impulse_response

KEY = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


def attached(model, name, rank=2, **arguments):
    config = NetworkConfig(
        network_module=f"networks.peft.{name}", network_dim=rank, network_alpha=1, network_args=arguments
    )
    return build_network(config, model.hosts, "sd1", seed=3)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(5, 7),
        nn.Conv2d(3, 4, 1),
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.Conv2d(3, 4, (2, 5), stride=(3, 1), padding=(0, 2)),
    ],
    ids=str,
)
def test_impulses_read_off_the_weight(layer):
    layer.bias = None
    torch.testing.assert_close(impulse_response(layer, layer), layer.weight)


def changes(model, network, disturb, **strength):
    """Weight, change and tensors of one linear layer of a disturbed network, fp64."""
    disturb(network, **strength)
    weight = network.sites[KEY].module.weight.double()
    tensors = {
        name.removeprefix(f"{KEY}."): t.double() for name, t in network.state_dict_to_save().items() if KEY in name
    }
    return weight, network.delta(KEY).double(), tensors


def test_hira_multiplies_the_weight_element_by_element(tiny, disturb):
    weight, delta, tensors = changes(model := tiny(), attached(model, "hira"), disturb)
    torch.testing.assert_close(delta, weight * (tensors["hira_B"] @ tensors["hira_A"]), rtol=1e-4, atol=1e-6)


def test_delora_is_bounded_whatever_its_matrices(tiny, disturb):
    weight, delta, tensors = changes(model := tiny(), attached(model, "delora", bound=0.5), disturb, strength=3.0)
    columns = (tensors["delora_B"] / tensors["delora_B"].norm(dim=0)) @ (
        tensors["delora_A"] / tensors["delora_A"].norm(dim=1, keepdim=True)
    )
    expected = tensors["delora_lambda"] / 2 * columns * weight.norm(dim=0)
    torch.testing.assert_close(delta, expected, rtol=1e-4, atol=1e-6)


def test_fourierft_has_so_many_coefficients_as_network_dim(tiny, disturb):
    _, delta, tensors = changes(model := tiny(), attached(model, "fourierft", rank=5, scaling=20.0), disturb)
    spectrum = tensors["fourierft_spectrum"]
    assert spectrum.shape == (5,)
    # the real part of the inverse transform of five real coefficients has ten, each half as large
    found = (torch.fft.fft2(delta) / 20.0).abs()
    assert (found > 1e-6).sum() <= 10
    assert found.square().sum() == pytest.approx(spectrum.square().sum().item() / 2, rel=0.3)


def test_a_file_acts_with_the_options_that_it_was_trained_with(tiny, disturb, tmp_path):
    model = tiny()
    network = attached(model, "waveft", rank=6, scaling=3.0)
    disturb(network, strength=0.5)
    acting = model.predict()
    save_lora(tmp_path / "lora.safetensors", network.state_dict_to_save(), network.metadata())
    network.detach()
    apply_lora(tmp_path / "lora.safetensors", model.hosts, "sd1")
    torch.testing.assert_close(model.predict(), acting)


def test_what_a_tuner_cannot_do_is_told(tiny):
    with pytest.raises(UserError, match="network_dropout"):
        build_network(
            NetworkConfig(network_module="networks.peft.hira", network_dropout=0.1), tiny().hosts, "sd1", seed=0
        )
    with pytest.raises(UserError, match=r"gralora cannot act on lora_.*divisible"):
        attached(tiny(), "gralora", blocks=3)


@pytest.mark.parametrize("name", ["hira", "gralora", "miss"])
def test_upon_another_network_only_its_own_change_is_added(tiny, disturb, name):
    model = tiny()
    lower = build_network(NetworkConfig(network_args={"conv_dim": 2}), model.hosts, "sd1", seed=0)
    disturb(lower)
    before = model.predict()
    network = attached(model, name, rank=4, conv_dim=2)
    torch.testing.assert_close(model.predict(), before, rtol=1e-4, atol=1e-5)
    disturb(network)
    alone = tiny()
    own = attached(alone, name, rank=4, conv_dim=2)
    own.load_saved(network.state_dict_to_save())
    assert all(torch.equal(network.delta(key), own.delta(key)) for key in network.sites)


def test_convolutions_that_are_computed_otherwise_can_be_merged(tiny, disturb):
    model = tiny(dtype=torch.bfloat16)
    freeze_convolutions(model.hosts["unet"])
    network = attached(model, "hira", rank=4, conv_dim=2)
    disturb(network, 0.5)
    network.train(False)
    acting = model.predict()
    merge(network)
    assert (model.predict() - acting).float().norm() < 0.05 * acting.float().norm()


def test_a_model_on_the_cpu_leaves_the_generators_of_gpus_alone(tiny, monkeypatch):
    """Left to itself torch saves every GPU's, and warns that this takes time."""
    model, saved = tiny("sd1"), []

    def noting(devices=None, fork_rng=torch.random.fork_rng, **named):
        saved.append(devices)
        return fork_rng(devices=[])

    monkeypatch.setattr(torch.random, "fork_rng", noting)
    attached(model, "hira")
    assert saved and all(devices == [] for devices in saved)
