"""Files load in diffusers with nothing left over, and act there as the network does here."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_logging
from peft.tuners.tuners_utils import BaseTunerLayer

from library.config.schema.network import NetworkConfig
from library.lora_files.file import save_lora
from networks.build import build_network

BLOCKS = {"sd1": 25, "sd2": 25, "sdxl": 23}
SCOPES = {
    "linear": NetworkConfig(network_dim=3, network_alpha=2),
    "conv": NetworkConfig(network_dim=3, network_alpha=2, network_args={"conv_dim": 2, "conv_alpha": 1}),
    "unet": NetworkConfig(network_dim=3, network_alpha=3, network_train_unet_only=True),
    "text": NetworkConfig(network_dim=3, network_alpha=0, network_train_text_encoder_only=True),
    "blocks": NetworkConfig(network_dim=3, network_alpha=2),
    "rs_lora": NetworkConfig(network_dim=3, network_alpha=2, network_args={"conv_dim": 2, "rs_lora": True}),
    "lora_fa": NetworkConfig(network_module="networks.lora_fa", network_args={"conv_dim": 2}),
    "dylora": NetworkConfig(network_module="networks.dylora", network_args={"unit": 2, "conv_dim": 2}),
    "pissa": NetworkConfig(network_module="networks.pissa", network_args={"conv_dim": 2}),
    "t_lora": NetworkConfig(network_module="networks.t_lora", network_args={"conv_dim": 2}),
}


def pipeline(model):
    hosts = model.hosts
    parts = {
        "vae": None,
        "tokenizer": None,
        "unet": hosts["unet"],
        "text_encoder": hosts["te1"],
        "scheduler": DDIMScheduler(),
    }
    if model.family == "sdxl":
        return StableDiffusionXLPipeline(**parts, tokenizer_2=None, text_encoder_2=hosts["te2"])
    return StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


@pytest.fixture
def warnings_of_libraries(caplog):
    """What diffusers, peft and transformers warn of."""
    diffusers_logging.enable_propagation()
    caplog.set_level(logging.WARNING)
    yield lambda: [
        record.getMessage() for record in caplog.records if record.name.split(".")[0] in ("diffusers", "peft")
    ]
    diffusers_logging.disable_propagation()


@pytest.mark.parametrize(
    ("family", "scope", "dtype"),
    [
        ("sd1", "conv", None),
        ("sd2", "conv", None),
        ("sdxl", "conv", None),
        ("sd1", "linear", torch.float16),
        ("sd2", "text", None),
        ("sdxl", "unet", None),
        ("sd1", "blocks", None),
        ("sdxl", "blocks", None),
        ("sd1", "rs_lora", None),
        ("sd1", "lora_fa", None),
        ("sd1", "dylora", None),
        ("sd1", "pissa", None),
        ("sdxl", "pissa", torch.float16),
        ("sd1", "t_lora", None),
    ],
)
def test_round_trip(tiny, disturb, tmp_path, warnings_of_libraries, family, scope, dtype):
    model = tiny(family)
    config = SCOPES[scope]
    if scope == "blocks":
        blocks = range(BLOCKS[family])
        by_block = {
            "block_dims": [2 + block % 3 for block in blocks],
            "block_alphas": [1.0 + block % 2 for block in blocks],
        }
        config = replace(config, network_args=by_block)
    network = build_network(config, model.hosts, family, seed=1)
    disturb(network)
    network.eval()
    expected = {"unet": model.predict(), **{host: model.encode(host) for host in model.hosts if host != "unet"}}
    save_lora(tmp_path / "x.safetensors", network.state_dict_to_save(), network.metadata(), dtype)

    other = tiny(family)
    frozen = other.predict()
    pipe = pipeline(other)
    pipe.load_lora_weights(tmp_path, weight_name="x.safetensors")
    absent = "No LoRA keys associated to"  # which is so where the network trains the UNet or the text encoders alone
    assert [text for text in warnings_of_libraries() if scope not in ("unet", "text") or absent not in text] == []
    layers = [
        module for host in other.hosts.values() for module in host.modules() if isinstance(module, BaseTunerLayer)
    ]
    assert len(layers) == len(network.sites)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype is None else {"rtol": 1e-2, "atol": 2e-3}
    torch.testing.assert_close(other.predict(), expected["unet"], **tolerance)
    for host in expected.keys() - {"unet"}:
        torch.testing.assert_close(other.encode(host), expected[host], **tolerance)
    assert torch.allclose(frozen, expected["unet"], atol=1e-3) == (scope == "text")
