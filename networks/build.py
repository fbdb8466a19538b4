"""From the configuration to a network inside its hosts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from library.core.registry import NETWORKS
from library.lora_files.file import read_lora
from library.lora_files.keys import Site, sites
from library.lora_files.layouts import KEY_LAYOUTS
from networks.algorithm import Algorithm, Size
from networks.apply import fitting_sizes, naming, sizes_in_file
from networks.base import Network
from networks.foreign import ForeignNetwork, is_foreign
from networks.inject import AdapterNetwork
from networks.options import parse_together
from networks.rates import RateOptions, block_weights
from networks.sizes import SizeOf, SizeOptions, sizes_from_options


def check_network(config: NetworkConfig) -> None:
    """Import the network and check its options and files, before there is a model.

    Raises:
        UserError: what `build_network` would complain of without regard to the model.
    """
    plugin = find_plugin(config.network_module)
    if not is_foreign(plugin):
        *_, options = parse_together((SizeOptions, RateOptions, plugin.Options), config.network_args, "network_args")
        plugin(options, config.network_dropout or 0.0)
        _check_norms(plugin, config)
    _check_choices(config)
    for file in [*config.base_weights, *([config.network_weights] if config.network_weights else [])]:
        read_lora(Path(file))


def build_network(config: NetworkConfig, hosts: Mapping[str, nn.Module], family: str, seed: int) -> Network:
    """The network that the configuration asks for, attached to the hosts it asks for.

    With `network_weights` it starts from that file, else without any effect on the hosts.

    Args:
        hosts: "unet", "te1", "te2"; those that `network_train_unet_only` or its counterpart leaves out are not touched.
        family: "sd1", "sd2", "sdxl": decides the names in files.
        seed: of the initial weights.

    Raises:
        UserError: unknown network or options, a file that does not fit.
    """
    plugin = find_plugin(config.network_module)
    _check_choices(config)
    weights = read_lora(Path(config.network_weights))[0] if config.network_weights else None
    dims_from = weights if config.dim_from_weights else None
    network: Network
    if is_foreign(plugin):
        network = ForeignNetwork(plugin, config, family, seed, described(config), dims_from)
    else:
        network = adapter_network(plugin, config, family, seed, dims_from)
    with naming(Path(config.network_weights), family) if config.network_weights and dims_from else nullcontext():
        network.attach(trained_hosts(config, hosts))
    if weights is not None:
        network.load_saved(weights)
    return network


def find_plugin(name: str) -> Any:
    """The class registered under the name or in the module of that dotted path, or a module of sd-scripts' protocol.

    Raises:
        UserError: there is none.
    """
    plugin = NETWORKS.get(name)
    if not isinstance(plugin, ModuleType) or is_foreign(plugin):
        return plugin
    classes = [value for value in vars(plugin).values() if isinstance(value, type) and _is_algorithm(value)]
    if len(classes) != 1:
        raise UserError(
            f"network_module '{name}' is a module without a network: register a class in it with "
            f'@NETWORKS.register("{name}"), or name the class: "{name}.MyNetwork".'
        )
    return classes[0]


def trained_hosts(config: NetworkConfig, hosts: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The hosts that the network is put into."""
    if config.network_train_unet_only:
        return {"unet": hosts["unet"]}
    if config.network_train_text_encoder_only:
        return {name: host for name, host in hosts.items() if name != "unet"}
    return dict(hosts)


def adapter_network(
    plugin: Any, config: NetworkConfig, family: str, seed: int, dims_from: Mapping[str, Tensor] | None
) -> AdapterNetwork:
    """A network of our own kind, not yet attached. `dims_from`: a LoRA file whose ranks and alphas to take."""
    blocks = KEY_LAYOUTS.get(family).blocks
    size_options, rate_options, own_options = parse_together(
        (SizeOptions, RateOptions, plugin.Options), config.network_args, "network_args"
    )
    algorithm: Algorithm = plugin(own_options, config.network_dropout or 0.0)
    weights = block_weights(rate_options, blocks)
    if dims_from is not None:
        sizes = sizes_in_file(algorithm, dims_from)
        size_of, conv = fitting_sizes(algorithm, sizes, dims_from), True
        config = replace(config, **most_common(sizes))
    else:
        of_options = sizes_from_options(config.network_dim, config.network_alpha, size_options, blocks)
        size_of = chosen(algorithm, of_options, weights)
        conv = size_options.conv
    return AdapterNetwork(
        algorithm,
        find_sites=lambda hosts: sites(hosts, family, conv),
        size_of=size_of,
        rate_options=rate_options,
        block_weights=weights,
        seed=seed,
        described=described(config),
    )


def chosen(algorithm: Algorithm, size_of: SizeOf, block_weights: list[float] | None) -> SizeOf:
    """Sizes without the sites that the algorithm leaves out and the blocks whose learning rate is 0."""

    def trains(site: Site) -> bool:
        return block_weights is None or site.block is None or block_weights[site.block] > 0

    return lambda site: size_of(site) if trains(site) and algorithm.acts_on(site) else None


def most_common(sizes: Mapping[str, Size]) -> dict[str, Any]:
    """The most frequent rank and alpha, as `network_dim` and `network_alpha`."""
    [(size, _)] = Counter(sizes.values()).most_common(1) or [(Size(1, 1.0), 0)]
    return {"network_dim": size.rank, "network_alpha": size.alpha}


def described(config: NetworkConfig) -> dict[str, str]:
    """The configuration of the network as LoRA files carry it."""
    metadata = {
        "ss_network_module": config.network_module,
        "ss_network_dim": str(config.network_dim),
        "ss_network_alpha": str(config.network_alpha),
        "ss_network_dropout": str(config.network_dropout),
    }
    if config.network_args:
        metadata["ss_network_args"] = json.dumps(config.network_args)
    return metadata


def _check_choices(config: NetworkConfig) -> None:
    if config.dim_from_weights and not config.network_weights:
        raise UserError("dim_from_weights = true needs network_weights: the LoRA file whose ranks to take.")
    if config.network_train_unet_only and config.network_train_text_encoder_only:
        raise UserError("network_train_unet_only and network_train_text_encoder_only exclude each other: set one.")


def _check_norms(plugin: Any, config: NetworkConfig) -> None:
    if config.scale_weight_norms is not None and not getattr(plugin, "scalable", True):
        raise UserError(
            f"scale_weight_norms has no meaning for {config.network_module}, whose change of a weight cannot be scaled: "
            "leave it out."
        )


def _is_algorithm(value: type) -> bool:
    return hasattr(value, "Options") and hasattr(value, "adapter") and hasattr(value, "size_in_file")
