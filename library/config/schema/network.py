"""The network that is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from library.config.schema.fields import option, parse_arguments, parse_numbers, parse_strings
from library.config.schema.layers import parse_layers


@dataclass(frozen=True)
class NetworkConfig:
    """Which adapter is put into the model, and how large."""

    network_module: str = "networks.lora"
    """Name or dotted path of the network: networks.lora, a third-party module, or your own."""
    network_dim: int = option(4, minimum=1)
    """Rank of the LoRA matrices."""
    network_alpha: float = option(1.0, minimum=0)
    """Scale of the LoRA is network_alpha / network_dim; 0 means the rank, so scale 1."""
    network_args: dict[str, Any] = option(factory=dict, parse=parse_arguments)
    """Options of the network, such as {conv_dim = 8, conv_alpha = 4}; each network documents its own."""
    network_layers: list[dict[str, Any]] = option(factory=list, parse=parse_layers)
    """Ranks, alphas and learning rates for some of the layers: tables [[network_layers]] of match and dim, alpha, lr or
    lr_scale. match = ["attn2", "OUT03-OUT05 ff"] means each layer that one of the texts fits with all of its words; a word is a
    block or a range of blocks, or whole parts of the layer's name, in which * stands for any text. The later table wins, field by
    field, over the earlier and over network_dim and network_args; 0 leaves layers out (docs/layers.md)."""
    network_dropout: float | None = option(None, minimum=0, maximum=1, zero_is_unset=True)
    """Probability of dropping a value between the two LoRA matrices."""
    network_weights: str | None = option(None, path="input")
    """Continue from this LoRA file."""
    dim_from_weights: bool = False
    """Take every rank and alpha from network_weights."""
    network_train_unet_only: bool = False
    """Put the network into the UNet alone."""
    network_train_text_encoder_only: bool = False
    """Put the network into the text encoders alone."""
    scale_weight_norms: float | None = option(None, minimum=0, zero_is_unset=True)
    """Scale a module's weights down when the norm of its change exceeds this (max norm regularisation)."""
    base_weights: list[str] = option(factory=list, parse=parse_strings, path="input")
    """LoRA files merged into the base model before training."""
    base_weights_multiplier: list[float] = option(factory=list, parse=parse_numbers)
    """Strength of each of base_weights; 1 where left out."""
