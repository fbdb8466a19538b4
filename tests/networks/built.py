"""Networks with tables of network_layers, and what the tests look at in them."""

from __future__ import annotations

import re

from library.config.schema.layers import parse_layers
from library.config.schema.network import NetworkConfig
from library.lora_files.names.keys import sites
from networks.base import Rates
from networks.build import build_network

RATES = Rates({"unet": 1e-3, "te1": 1e-4, "te2": 1e-5})


def config(*rules, **options):
    return NetworkConfig(
        **{"network_dim": 8, "network_alpha": 4, "network_layers": parse_layers(list(rules)), **options}
    )


def build(model, *rules, **options):
    return build_network(config(*rules, **options), model.hosts, model.family, seed=0)


def sizes(network):
    return {key: (adapter.size.rank, adapter.size.alpha) for key, adapter in network.adapters.items()}


def rates(network, by_host=RATES):
    return {group.name: group.lr for group in network.parameter_groups(by_host)}


def named(model, pattern, conv=False):
    """Layers whose key an expression is found in."""
    return {site.key for site in sites(model.hosts, model.family, conv) if re.search(pattern, site.key)}
