"""The tables [general], [[datasets]] and [[datasets.subsets]]: each level checked, and laid over the one before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from library.config.catalog import Declared, by_any_name, catalog, declarations
from library.config.findings import Findings
from library.config.places import placed
from library.config.schema.data import BucketConfig, CaptionConfig, ImageConfig, SubsetConfig
from library.config.spellings import NEEDLESS
from library.config.values import shown
from library.core.documents import DocumentError, parse_json, parse_toml
from library.core.errors import did_you_mean

SUBSET_ONLY = ("image_dir", "metadata_file", "is_reg")


@dataclass(frozen=True)
class Table:
    """Options of one dataset or subset, its own over those of the levels above."""

    where: str
    """For messages: "my_data.toml: datasets[0].subsets[1]"."""
    options: dict[str, Any]
    subsets: tuple[Table, ...] = ()


def read_tables(general: Any, datasets: Any, where: str, findings: Findings) -> list[Table]:
    """Check the tables' keys and values, and resolve subset > dataset > general.

    Args:
        general, datasets: the values of those keys.
        where: the file that holds them, for messages.
    """
    if not isinstance(general, Mapping) or not _is_list_of_tables(datasets):
        findings.mistakes.append(f"{where}: expected a table [general] and tables [[datasets]].")
        return []
    shared = _check(general, dataset_keys(), f"{where}: general", findings)
    return [_read_dataset(table, shared, f"{where}: datasets[{n}]", findings) for n, table in enumerate(datasets)]


def read_dataset_file(file: str, findings: Findings) -> tuple[Any, Any]:
    """[general] and [[datasets]] of a dataset TOML or JSON file; empty where it cannot be read."""
    path = Path(file)
    if path.exists() and not path.is_file():  # a device may have no end
        findings.mistakes.append(f'dataset_config = "{file}": this is no file.')
        return {}, []
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = parse_json(text) if path.suffix.lower() == ".json" else parse_toml(text)
    except OSError as error:
        findings.mistakes.append(f'dataset_config = "{file}": cannot be read: {error.strerror} ({path.resolve()}).')
        return {}, []
    except (UnicodeDecodeError, DocumentError) as error:
        findings.mistakes.append(f"{file}: not valid {'JSON' if path.suffix.lower() == '.json' else 'TOML'}: {error}")
        return {}, []
    known = ("general", "datasets")
    if not isinstance(content, dict) or not content.get("datasets"):
        findings.mistakes.append(f"{file}: no [[datasets]] in it.")
        return {}, []
    findings.unknown += [
        f"{file}: unknown key '{key}'. A dataset file holds [general], [[datasets]] and [[datasets.subsets]]."
        for key in content
        if key not in known
    ]
    return content.get("general", {}), content["datasets"]


def dataset_keys() -> dict[str, Declared]:
    """Every name that [general] and [[datasets]] understand."""
    shared = {key: declared for key, declared in declarations(SubsetConfig).items() if key not in SUBSET_ONLY}
    return by_any_name({**declarations(BucketConfig), **_treatment_keys(), **shared})


def subset_keys() -> dict[str, Declared]:
    """Every name that [[datasets.subsets]] understands."""
    return by_any_name({**_treatment_keys(), **declarations(SubsetConfig)})


def _treatment_keys() -> dict[str, Declared]:
    """Options that all three levels understand, and that the main configuration has too."""
    words = {key: catalog()[key] for key in ("trigger_word", "class_word")}
    return {**declarations(CaptionConfig), **declarations(ImageConfig), **words}


def _read_dataset(table: Mapping[str, Any], shared: dict[str, Any], where: str, findings: Findings) -> Table:
    subsets = table.get("subsets", [])
    if not _is_list_of_tables(subsets) or not subsets:
        findings.mistakes.append(f"{where}: no [[datasets.subsets]] in it.")
        subsets = []
    own = _check({key: value for key, value in table.items() if key != "subsets"}, dataset_keys(), where, findings)
    options = {**shared, **own}
    places = [f"{where}.subsets[{number}]" for number in range(len(subsets))]
    return Table(
        where,
        options,
        tuple(
            Table(place, {**options, **_check(subset, subset_keys(), place, findings)})
            for place, subset in zip(places, subsets, strict=True)
        ),
    )


def _check(table: Mapping[str, Any], known: Mapping[str, Declared], where: str, findings: Findings) -> dict[str, Any]:
    """The table with canonical keys and typed values; what does not fit is left out and reported."""
    checked: dict[str, Any] = {}
    for name, value in table.items():
        declared = known.get(name)
        if declared is None:
            findings.unknown.append(f"{where}: {_unknown(name, known)}")
        elif declared.key in checked:
            findings.mistakes.append(f"{where}: '{declared.key}' is set twice, also as '{name}'. Keep one.")
        else:
            try:
                checked[declared.key] = declared.convert(placed(value, declared.path, from_preset=False))
            except ValueError as error:
                findings.mistakes.append(f"{where}: {name} = {shown(value)}: expected {error}.")
            if name in NEEDLESS and checked.get(name):
                findings.warnings.append(f"{where}: '{name}' has no effect: {NEEDLESS[name]}.")
    return checked


def _unknown(name: str, known: Mapping[str, Declared]) -> str:
    if name in dataset_keys():
        return f"'{name}' belongs in [[datasets]] or [general], not in a subset."
    if name in subset_keys():
        return f"'{name}' belongs in [[datasets.subsets]]."
    if name in catalog():
        return f"'{name}' is an option of the run: set it outside the dataset tables."
    return f"unknown key '{name}'.{did_you_mean(name, known)}"


def _is_list_of_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)
