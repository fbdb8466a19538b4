"""Every network in whole runs: in half precision, with checkpointing, stopped and resumed; and LyCORIS, through its own protocol."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from networks.foreign_names import renamed_class
from networks.peft import impulse_response
from tests.networks.cases import ONE_OF_EACH, NetworkCase

HALF_WAY = "lora-step00000002-state"


def options_of(case: NetworkCase) -> dict[str, object]:
    dropout = dict(case.dropout or {})
    arguments = {**case.arguments, **dropout.pop("network_args", {})}
    return {
        "network_module": case.module,
        "network_args": [f"{k}={v}" for k, v in arguments.items()] or None,
        **dropout,
    }


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
def test_every_network_trains_and_resumes_bitwise(train, case: NetworkCase) -> None:
    options = {
        **options_of(case),
        "mixed_precision": "bf16",
        "gradient_checkpointing": True,
        "max_train_steps": 4,
        "save_every_n_steps": 2,
        "save_state": True,
    }
    whole = train("whole", **options)
    half, last = (load_file(whole / f"{name}.safetensors") for name in ("lora-step00000002", "lora"))
    assert all(tensor.isfinite().all() for tensor in last.values())
    assert any(not torch.equal(half[name], tensor) for name, tensor in last.items()), "nothing was learned"
    resumed = load_file(train("resumed", **options, resume=whole / HALF_WAY) / "lora.safetensors")
    assert resumed.keys() == last.keys()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in last.items())


@pytest.mark.parametrize("arguments", ["algo=lokr", "algo=loha", "algo=locon", "algo=locon dora_wd=True"])
def test_lycoris_trains_and_its_file_loads_again(train, models, arguments: str) -> None:
    from diffusers import UNet2DConditionModel
    from lycoris.kohya import create_network_from_weights
    from transformers import CLIPTextModel

    options = {"network_module": "lycoris.kohya", "network_args": [*arguments.split(), "conv_dim=2", "preset=attn-mlp"]}
    first = train("first", **options, max_train_steps=3) / "lora.safetensors"
    again = (
        train("again", **options, max_train_steps=1, network_weights=first, learning_rate=1e-12) / "lora.safetensors"
    )
    weights = load_file(first)
    for name, tensor in load_file(again).items():
        torch.testing.assert_close(tensor, weights[name], msg=name)

    unet = UNet2DConditionModel.from_pretrained(models("sd15"), subfolder="unet")
    encoder = CLIPTextModel.from_pretrained(models("sd15"), subfolder="text_encoder")
    layer = unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    frozen = layer.weight.clone()
    with renamed_class(unet, "TimestepEmbedding", "TimeEmbedding"):  # LyCORIS stops for having it twice
        network, _ = create_network_from_weights(1.0, str(first), None, encoder, unet)
    network.apply_to(encoder, unet, True, True)
    network.load_weights(str(first))
    network.eval()
    change = impulse_response(layer, layer) - frozen
    assert change.abs().max() > 1e-4, "LyCORIS reads its own file back"
