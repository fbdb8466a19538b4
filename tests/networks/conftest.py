"""Tiny models of each family, with random frozen weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

SD = {
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 16,
}
UNETS = {
    "sd1": SD,
    "sd2": {**SD, "use_linear_projection": True},
    "sdxl": {
        "block_out_channels": (16, 32, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 1, 2),
        "cross_attention_dim": 32,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 16,
    },
}


@dataclass
class TinyModel:
    """A model of a family and inputs for it."""

    family: str
    hosts: dict[str, nn.Module]
    dtype: torch.dtype
    context_features: int
    inputs: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        draw = torch.Generator().manual_seed(1)
        self.inputs = {
            "sample": torch.randn(2, 4, 8, 8, generator=draw),
            "encoder_hidden_states": torch.randn(2, 5, self.context_features, generator=draw),
        }
        self.pooled = torch.randn(2, 16, generator=draw)

    def predict(self) -> Tensor:
        """The UNet's output (2, 4, 8, 8)."""
        extra = {"added_cond_kwargs": {"text_embeds": self.pooled.to(self.dtype), "time_ids": torch.full((2, 6), 64.0)}}
        inputs = {name: value.to(self.dtype) for name, value in self.inputs.items()}
        t_B = torch.tensor([10, 700])
        return self.hosts["unet"](timestep=t_B, **inputs, **(extra if self.family == "sdxl" else {})).sample

    def encode(self, host: str) -> Tensor:
        """A text encoder's hidden states (2, 6, 16)."""
        ids = torch.tensor([[0, 5, 6, 7, 8, 1], [0, 9, 3, 1, 1, 1]])
        return self.hosts[host](ids).last_hidden_state


def _text_encoder(kind: type[nn.Module]) -> nn.Module:
    config = CLIPTextConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=16, bos_token_id=0, eos_token_id=1, max_position_embeddings=8,
    )  # fmt: skip
    return kind(config)


@pytest.fixture
def tiny() -> Callable[..., TinyModel]:
    """Makes a tiny model: tiny("sdxl", dtype=torch.bfloat16)."""

    def make(family: str = "sd1", dtype: torch.dtype = torch.float32) -> TinyModel:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = 2 if family == "sdxl" else 1
            unet = UNet2DConditionModel(
                sample_size=8, layers_per_block=layers, norm_num_groups=8, attention_head_dim=2, **UNETS[family]
            )
            encoders = {"te1": _text_encoder(CLIPTextModel)}
            if family == "sdxl":
                encoders["te2"] = _text_encoder(CLIPTextModelWithProjection)
        hosts = {"unet": unet, **encoders}
        for host in hosts.values():
            for parameter in host.parameters():
                parameter.data = parameter.data.to(dtype)
            host.requires_grad_(False).eval()
        return TinyModel(family, hosts, dtype, UNETS[family]["cross_attention_dim"])

    return make


@pytest.fixture
def disturb() -> Callable[[object], None]:
    """Gives a network weights as if it had been trained."""

    def add_noise(network: object, strength: float = 0.1) -> None:
        from networks.base import Rates

        draw = torch.Generator().manual_seed(2)
        rates = Rates({"unet": 1.0, "te1": 1.0, "te2": 1.0})
        with torch.no_grad():
            for group in network.parameter_groups(rates):  # type: ignore[attr-defined]
                for parameter in group.parameters:
                    parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=strength)

    return add_noise
