"""The training data as the configuration describes it: dataset tables and picture folders, resolved level by level.

Precedence: subset > dataset > general > the main configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from library.config.dataset_tables import Table, read_dataset_file, read_tables
from library.config.findings import Findings
from library.config.picture_folders import IMAGE_EXTENSIONS, find_picture_folders
from library.config.schema import Config
from library.config.schema.data import BucketConfig, CaptionConfig, ImageConfig
from library.core.errors import raise_all

__all__ = ["IMAGE_EXTENSIONS", "Dataset", "Subset", "find_datasets", "resolve_datasets"]

T = TypeVar("T", BucketConfig, CaptionConfig, ImageConfig)


@dataclass(frozen=True)
class Subset:
    """Pictures of one folder or metadata file that are treated alike."""

    where: str
    """What declares it, for messages: `my_data.toml: datasets[0].subsets[1]` or `train_data_dir/10_mychar man`."""
    image_dir: Path | None
    """Folder whose pictures are used; with metadata_file, the root of its paths."""
    metadata_file: Path | None
    """A .json or .jsonl file that maps pictures to captions."""
    num_repeats: int
    is_reg: bool
    """Regularisation pictures: weighed by prior_loss_weight, their number matched to that of the training pictures."""
    class_tokens: str | None
    """Caption of pictures that have no caption file."""
    captions: CaptionConfig
    images: ImageConfig
    trigger_word: str
    class_word: str
    custom_attributes: dict[str, Any]
    """Free values of the user, handed through to metadata."""
    cache_info: bool
    recursive: bool = False
    """Pictures in subfolders of image_dir are used too."""

    @property
    def keeps_output(self) -> bool:
        """Whether the frozen model's own prediction is the target, for captions as they are: sd-scripts' custom attribute."""
        return bool(self.custom_attributes.get("diff_output_preservation"))

    @property
    def teaches(self) -> bool:
        """Whether the pictures are of what is to be learnt, rather than of what is to stay as it was."""
        return not (self.is_reg or self.keeps_output)


@dataclass(frozen=True)
class Dataset:
    """Subsets that share sizes and batches."""

    buckets: BucketConfig
    subsets: tuple[Subset, ...]


def resolve_datasets(config: Config) -> tuple[list[Dataset], list[str]]:
    """The run's datasets, and notices of what was decided on the way.

    Raises:
        UserErrors: unknown keys, values that do not fit, folders or files that are missing or empty; all at once.
    """
    findings = Findings()
    datasets = find_datasets(config, findings)
    ignore_unknown = config.config.unknown_keys == "warn"
    raise_all(findings.mistakes + ([] if ignore_unknown else findings.unknown))
    return datasets, findings.notices


def find_datasets(
    config: Config, findings: Findings, source: str = "the configuration", elsewhere: bool = False
) -> list[Dataset]:
    """As `resolve_datasets`, with everything to be told gathered in `findings`.

    Args:
        source: the file that holds inline tables, for messages.
        elsewhere: the data may be on another machine: what is not here is no mistake, and is left out.
    """
    general: Any = config.data.general
    datasets: Any = config.data.datasets
    if elsewhere and not datasets and not _is_here(config):
        return []
    if config.data.dataset_config:
        source = config.data.dataset_config
        general, datasets = read_dataset_file(source, findings)
    if config.data.dataset_config or datasets:
        tables = read_tables(general, datasets, source, findings)
        return [_from_table(table, config, Findings() if elsewhere else findings) for table in tables]
    return _from_folders(config, findings)


def _is_here(config: Config) -> bool:
    named = (config.data.dataset_config, config.data.train_data_dir, config.data.reg_data_dir, config.data.in_json)
    return all(Path(name).exists() for name in named if name)


def _from_table(table: Table, config: Config, findings: Findings) -> Dataset:
    for subset in table.subsets:
        _check_places(subset, findings)
    subsets = tuple(_subset(subset.where, subset.options, config) for subset in table.subsets)
    return Dataset(_overlaid(config.buckets, table.options), subsets)


def _from_folders(config: Config, findings: Findings) -> list[Dataset]:
    subsets = []
    if config.data.in_json:
        options: dict[str, Any] = {"image_dir": config.data.train_data_dir, "metadata_file": config.data.in_json}
        _check_places(Table("in_json", options), findings)
        subsets.append(_subset("in_json", options, config))
    trees = {"reg_data_dir": config.data.reg_data_dir}
    if not config.data.in_json:
        trees = {"train_data_dir": config.data.train_data_dir, **trees}
    for key, root in trees.items():
        for folder in find_picture_folders(root, key, findings) if root else []:
            options = {
                "image_dir": str(folder.path),
                "num_repeats": folder.repeats,
                "class_tokens": folder.class_tokens,
                "is_reg": key == "reg_data_dir",
            }
            subsets.append(_subset(f"{key}: {folder.path.as_posix()}", options, config))
    return [Dataset(config.buckets, tuple(subsets))] if subsets else []


def _subset(where: str, options: Mapping[str, Any], config: Config) -> Subset:
    metadata_file = options.get("metadata_file")
    return Subset(
        where=where,
        image_dir=Path(options["image_dir"]) if options.get("image_dir") else None,
        metadata_file=Path(metadata_file) if metadata_file else None,
        num_repeats=options.get("num_repeats", config.data.dataset_repeats),
        is_reg=options.get("is_reg", False),
        class_tokens=options.get("class_tokens"),
        captions=_overlaid(config.captions, options),
        images=_overlaid(config.images, options),
        trigger_word=options.get("trigger_word", config.data.trigger_word),
        class_word=options.get("class_word", config.data.class_word),
        custom_attributes=dict(options.get("custom_attributes", {})),
        cache_info=options.get("cache_info", False),
        recursive=options.get("recursive", False),
    )


def _overlaid(base: T, options: Mapping[str, Any]) -> T:
    """The main configuration's values, overlaid by those of the tables."""
    return replace(base, **{field.name: options[field.name] for field in fields(base) if field.name in options})


def _check_places(subset: Table, findings: Findings) -> None:
    """A subset names a folder or a metadata file, and what it names exists."""
    folder, metadata_file = subset.options.get("image_dir"), subset.options.get("metadata_file")
    masks = subset.options.get("conditioning_data_dir")
    if not folder and not metadata_file:
        findings.mistakes.append(f"{subset.where}: neither image_dir nor metadata_file is set.")
    if folder and not Path(folder).is_dir():
        findings.mistakes.append(
            f'{subset.where}: image_dir = "{folder}": no such folder (looked for it at {Path(folder).resolve()}).'
        )
    if masks and not Path(masks).is_dir():
        findings.mistakes.append(f'{subset.where}: conditioning_data_dir = "{masks}": no such folder.')
    if metadata_file and not Path(metadata_file).is_file():
        findings.mistakes.append(
            f'{subset.where}: metadata_file = "{metadata_file}": no such file (looked for it at '
            f"{Path(metadata_file).resolve()})."
        )
