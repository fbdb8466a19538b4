"""How files build on one another: `extends`, and the overlay of the embedded demo."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from library.config.findings import Findings
from library.config.places import PRESETS, find_config, shown_path
from library.config.settings import Setting, choose_settings
from library.config.toml_files import read_settings
from library.config.values import shown
from library.core.errors import UserError

DEMO = PRESETS / "demo.toml"
NAMES_WHAT_IS_TRAINED = ("pretrained_model_name_or_path", "train_data_dir", "dataset_config", "in_json", "datasets")


@dataclass(frozen=True)
class Layer:
    """What one file sets."""

    file: Path
    settings: Mapping[str, Setting]


def read_layers(name: str, folder: Path, key: str, findings: Findings, within: tuple[Path, ...] = ()) -> list[Layer]:
    """A file, after all that it extends: the later a layer, the more it counts.

    Args:
        name, folder, key: as for `library.config.places.find_config`.
        findings: takes every mistake; what cannot be read is left out.
        within: the files that led here, to notice circles.
    """
    try:
        path = find_config(name, folder, key)
        if path.resolve() in within:
            chain = " -> ".join(shown_path(each) for each in (*within, path))
            raise UserError(f"extends goes in a circle: {chain}.")
        settings = read_settings(path)
    except UserError as error:
        findings.mistakes.append(str(error))
        return []
    own = choose_settings(settings, findings)
    below = own.pop("extends", None)
    trail = (*within, path.resolve())
    layers = [
        layer
        for base in _names(below, findings)
        for layer in read_layers(base, path.parent, f"{below.source}: extends" if below else "", findings, trail)
    ]
    return [*layers, Layer(path, own)]


def overlay(layers: Iterable[Mapping[str, Setting]]) -> dict[str, Setting]:
    """Option -> the setting that counts: the last one."""
    return {key: setting for layer in layers for key, setting in layer.items()}


def is_demo(chosen: Mapping[str, Setting]) -> bool:
    """Whether neither a base model nor training data is named."""
    return not any(key in chosen and chosen[key].value for key in NAMES_WHAT_IS_TRAINED)


def demo_notice(demo: Layer, overridden: Sequence[str]) -> str:
    """What a run is told that uses the embedded model and data."""
    kept = f" The command line keeps its say over {', '.join(overridden)}." if overridden else ""
    return (
        "neither a base model nor training data is named, so this run trains the embedded demo character on the embedded "
        f"demo model: {shown_path(demo.file)} is laid over your configuration ({len(demo.settings)} values; --explain "
        f"shows them).{kept} For your own, set pretrained_model_name_or_path and train_data_dir."
    )


def _names(extends: Setting | None, findings: Findings) -> list[str]:
    if extends is None:
        return []
    names = extends.value if isinstance(extends.value, list) else [extends.value]
    if all(isinstance(name, str) and name for name in names):
        return names
    findings.mistakes.append(
        f"{extends.source}: extends = {shown(extends.value)}: expected a preset or file, or a list of them."
    )
    return []
