"""From chosen settings to the typed, frozen configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from library.config.catalog import catalog
from library.config.findings import Findings
from library.config.interpolation import escaped, interpolated
from library.config.places import placed
from library.config.schema import Config
from library.config.settings import Setting
from library.config.spellings import IMPLIED, NEEDLESS_NETWORK_ARGS
from library.config.values import shown


def typed_values(chosen: Mapping[str, Setting], findings: Findings) -> dict[str, Any]:
    """Option -> value of the declared type; what does not fit is reported and left out."""
    defaults = {key: declared.default for key, declared in catalog().items()}
    raw, failed = interpolated({key: setting.value for key, setting in chosen.items()}, defaults)
    findings.mistakes += [f"{chosen[key].source}: {why}" for key, why in failed.items()]
    values = {}
    for key, value in raw.items():
        declared = catalog()[key]
        try:
            values[key] = _writable(declared.convert(placed(value, declared.path, chosen[key].from_preset)))
        except ValueError as error:
            written = f"{key} = {shown(chosen[key].value)}"
            findings.mistakes.append(f"{chosen[key].source}: {written}: expected {error}.")
    if "network_args" in values and str(values.get("network_module", "networks.")).startswith("networks."):
        values["network_args"] = _without_needless(values["network_args"], chosen["network_args"].source, findings)
    return values


def _without_needless(arguments: Mapping[str, Any], source: str, findings: Findings) -> dict[str, Any]:
    """Options of one of our networks, without those of sd-scripts' that change nothing."""
    for name in arguments.keys() & NEEDLESS_NETWORK_ARGS.keys():
        findings.warnings.append(f"{source}: network_args: '{name}' has no effect: {NEEDLESS_NETWORK_ARGS[name]}.")
    return {name: value for name, value in arguments.items() if name not in NEEDLESS_NETWORK_ARGS}


def implied_values(values: Mapping[str, Any]) -> dict[str, str]:
    """Option that another one makes true -> that other one."""
    return {
        implied: key for key, implied in IMPLIED.items() if values.get(key) is True and values.get(implied) is not True
    }


def held(values: Mapping[str, Any]) -> Config:
    """The configuration, its types held by OmegaConf's structured configs."""
    from omegaconf import OmegaConf, SCMode

    grouped: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        grouped.setdefault(catalog()[key].group, {})[key] = escaped(value)
    tree = OmegaConf.merge(OmegaConf.structured(Config), grouped)
    config = OmegaConf.to_container(tree, resolve=True, structured_config_mode=SCMode.INSTANTIATE)
    assert isinstance(config, Config)
    return config


def _writable(value: Any) -> Any:
    """The value itself.

    Raises:
        ValueError: a text in it is what OmegaConf reads as a missing value.
    """
    if value == "???":
        raise ValueError("text other than ???, which stands for a missing value")
    if isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            _writable(item)
    return value
