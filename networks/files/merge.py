"""Networks merged into the weights of their hosts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from networks.files.apply import apply_lora
from networks.inject import AdapterNetwork


def merge_base_weights(config: NetworkConfig, hosts: Mapping[str, nn.Module], family: str) -> None:
    """Merge `base_weights` into the hosts, each at its `base_weights_multiplier`.

    Raises:
        UserError: a file cannot be read or is not for these hosts.
    """
    files, given = config.base_weights, config.base_weights_multiplier
    assert len(given) <= len(files)  # the configuration was checked
    multipliers = [*given, *[1.0] * (len(files) - len(given))]
    for file, multiplier in zip(files, multipliers, strict=True):
        merge_lora(Path(file), hosts, family, multiplier)


def merge_lora(path: Path, hosts: Mapping[str, nn.Module], family: str, multiplier: float = 1.0) -> None:
    """Add a LoRA file's change to the hosts' weights.

    Raises:
        UserError: the file cannot be read, or is not for these hosts, or they are quantised.
    """
    merge(apply_lora(path, hosts, family), multiplier)


@torch.no_grad()
def merge(network: AdapterNetwork, multiplier: float = 1.0) -> None:
    """Add a network's change to its hosts' weights and take the network out of them.

    Summed in fp32 and rounded once to the weights' type.

    Raises:
        UserError: a host is quantised.
    """
    network.detach()
    for key, site in network.sites.items():
        weight = site.module.weight
        if weight.element_size() < torch.float16.itemsize:
            raise UserError(
                f"a LoRA cannot be merged into quantised weights ({site.host}: {site.path} is {weight.dtype}): leave out "
                "quantize_base and quantize_text_encoders."
            )
        weight.copy_(weight.float() + multiplier * network.delta(key).to(weight.device))
