"""From the configuration to a network inside its hosts."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from library.config.schema.layers import LayerRule
from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from library.core.registry import NETWORKS
from library.lora_files.file import read_lora
from library.lora_files.names.keys import sites
from library.lora_files.names.layouts import KEY_LAYOUTS
from library.lora_files.reading import read_for_model
from networks.algorithm import Algorithm, Size
from networks.base import Network
from networks.by_layer.layers import layer_changes
from networks.by_layer.patterns import PatternOptions, pattern_changes
from networks.by_layer.rates import InnerRates, RateOptions, block_weights
from networks.by_layer.sizes import SizeOf, SizeOptions, sizes_from_options, warn_of_conv_alpha
from networks.files.apply import fitting_sizes, naming, sizes_in_file
from networks.foreign import ForeignNetwork, is_foreign
from networks.inject import AdapterNetwork
from networks.options import parse_together
from networks.spelling import unknown_to

log = logging.getLogger("dojo")

SHARED = (SizeOptions, RateOptions, PatternOptions)
"""Options of every network of our own, beside those of its kind."""


def check_network(config: NetworkConfig) -> None:
    """Import the network and check its options and files, before there is a model.

    Raises:
        UserError: what `build_network` would complain of without regard to the model.
    """
    plugin = find_plugin(config.network_module)
    if is_foreign(plugin):
        _check_foreign(config)
        for remark in unknown_to(plugin, config.network_args):
            log.warning("%s", remark)
    else:
        sizes, rates, patterns, options = parse_together((*SHARED, plugin.Options), config.network_args, "network_args")
        algorithm = plugin(options, config.network_dropout or 0.0)
        _check_scaling(plugin, config, sizes)
        _warn_of_idle(config, sizes, rates, patterns, bool(algorithm.faster))
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
    weights = None
    if config.network_weights:
        weights, _ = read_for_model(Path(config.network_weights), family, keep_strangers=is_foreign(plugin))
    dims_from = weights if config.dim_from_weights else None
    network: Network
    if is_foreign(plugin):
        _check_foreign(config)
        network = ForeignNetwork(plugin, config, family, seed, described(config), dims_from)
    else:
        network = adapter_network(plugin, config, trained_hosts(config, hosts), family, seed, dims_from)
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
    plugin: Any,
    config: NetworkConfig,
    hosts: Mapping[str, nn.Module],
    family: str,
    seed: int,
    dims_from: Mapping[str, Tensor] | None,
) -> AdapterNetwork:
    """A network of our own kind for these hosts, not yet attached. `dims_from`: a LoRA file whose ranks and alphas to take."""
    blocks = KEY_LAYOUTS.get(family).blocks
    size_options, rate_options, pattern_options, own_options = parse_together(
        (*SHARED, plugin.Options), config.network_args, "network_args"
    )
    algorithm: Algorithm = plugin(own_options, config.network_dropout or 0.0)
    everything = sites(hosts, family, conv=True, ends=dims_from is not None)
    conv = size_options.conv or dims_from is not None
    usual = {site.key: site for site in (everything if conv else sites(hosts, family, conv=False))}
    by_pattern = pattern_changes(pattern_options, usual.values(), config.network_alpha)
    rules = [LayerRule(**table) for table in config.network_layers]
    changes = layer_changes(rules, by_pattern, everything, usual.keys(), blocks)
    scope = usual.keys() | {key for key, change in changes.items() if change.dim is not None}
    layer_rates = {key: change.rate for key, change in changes.items() if change.rate is not None}
    inner_rates = InnerRates(rate_options, block_weights(rate_options, blocks), layer_rates)
    if dims_from is not None:
        sizes = sizes_in_file(algorithm, dims_from)
        if not sizes:
            raise UserError(
                f"dim_from_weights: {config.network_weights} is no file of {config.network_module}; it begins with "
                f"{', '.join(sorted(dims_from)[:3])}. Set network_module to the network that it was trained with."
            )
        size_of = fitting_sizes(algorithm, sizes, dims_from)
        config = replace(config, **most_common(sizes))
    else:
        warn_of_conv_alpha(size_options, acts_on_conv=conv or len(scope) > len(usual))
        of_options = sizes_from_options(config.network_dim, config.network_alpha, size_options, blocks, changes)
        size_of = chosen(algorithm, of_options, inner_rates)
    return AdapterNetwork(
        algorithm,
        find_sites=lambda hosts: [site for site in sites(hosts, family, conv=True, ends=True) if site.key in scope],
        size_of=size_of,
        inner_rates=inner_rates,
        seed=seed,
        described=described(config),
    )


def chosen(algorithm: Algorithm, size_of: SizeOf, inner_rates: InnerRates) -> SizeOf:
    """Sizes without the sites that the algorithm leaves out and those whose learning rate is 0."""
    return lambda site: size_of(site) if inner_rates.trains(site) and algorithm.acts_on(site) else None


def most_common(sizes: Mapping[str, Size]) -> dict[str, Any]:
    """The most frequent rank and alpha, as `network_dim` and `network_alpha`."""
    [(size, _)] = Counter(sizes.values()).most_common(1)
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
    if config.network_layers:
        metadata["ss_network_layers"] = json.dumps(config.network_layers)
    return metadata


def _check_foreign(config: NetworkConfig) -> None:
    if config.network_layers:
        raise UserError(
            f"network_layers is for the networks of this project, and {config.network_module} is none: it decides itself on "
            "which layers it acts. Use its own options; for LyCORIS a preset file with module_algo_map and name_algo_map, "
            'named by network_args = {preset = "my_preset.toml"}.'
        )


def _check_scaling(plugin: Any, config: NetworkConfig, sizes: SizeOptions) -> None:
    if sizes.rs_lora and not getattr(plugin, "alpha_scales", True):
        raise UserError(
            f"network_args: rs_lora has no meaning for {config.network_module}, whose change is not scaled by alpha / rank: "
            "leave it out."
        )
    if config.scale_weight_norms is not None and not getattr(plugin, "scalable", True):
        raise UserError(
            f"scale_weight_norms has no meaning for {config.network_module}, whose change of a weight cannot be scaled: "
            "leave it out."
        )


def _warn_of_idle(
    config: NetworkConfig, sizes: SizeOptions, rates: RateOptions, patterns: PatternOptions, plus: bool
) -> None:
    """Tell of network_args that change nothing.

    Args:
        plus: whether LoRA+ speeds up something.
    """
    if not plus and any(rates.plus_ratio(host) for host in ("unet", "te1")):
        log.warning(
            "network_args: LoRA+ (loraplus_lr_ratio and its kin) has no effect in %s, which has no matrices that start at zero "
            "beside others that do not", config.network_module
        )  # fmt: skip
    if not config.dim_from_weights:
        return
    groups: tuple[SizeOptions | PatternOptions, ...] = (sizes, patterns)
    given = [item.name for group in groups for item in fields(group) if getattr(group, item.name) != item.default]
    if idle := [name for name in given if name != "network_reg_lrs"]:
        log.warning(
            "network_args: %s without effect with dim_from_weights = true: the layers, ranks and alphas of the file hold",
            ", ".join(idle),
        )


def _is_algorithm(value: type) -> bool:
    return hasattr(value, "Options") and hasattr(value, "adapter") and hasattr(value, "size_in_file")
