"""The dataset TOML of prepared pictures, which the trainer takes as it is: `--dataset_config FOLDER/dataset.toml`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from library.config.findings import Findings
from library.config.picture_folders import PictureFolder, find_picture_folders, has_pictures
from library.config.resolved import dataset_text
from library.core.terminal import harmless
from library.data.checks.findings import Finding
from library.data.preparing.settings import Settings

NAME = "dataset.toml"

TRAIN, VALIDATION, MASKS = "train", "validation", "masks"
"""Folders of a prepared dataset; masks lie in folders of the same names as their pictures."""

BUCKET_KEYS = ("min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale")

HEADER = """\
# Pictures prepared by `dojo dataset prepare`. Train on them:  train_network.py --dataset_config {path}
# Its paths are whole: prepare again, or edit them, where the folder has moved.
"""


def dataset_file(folder: Path, settings: Settings) -> tuple[str, list[Finding]]:
    """The file's text, and what is to be said of the folders' names.

    Args:
        folder: of prepared pictures, in place.
    """
    findings = Findings()
    datasets = []
    splits = {TRAIN: 0.0, VALIDATION: 1.0} if (folder / VALIDATION).is_dir() else {}
    for part in (TRAIN, VALIDATION):
        told = findings if part == TRAIN else Findings()  # of the same names, repeats mean nothing in validation
        subsets = [_subset(each, folder, settings) for each in _picture_folders(folder / part, part, told)]
        if subsets:
            split = {"validation_split": splits[part]} if splits else {}  # a preset's own would hold out more
            datasets.append({**split, "subsets": subsets})
    header = HEADER.format(path=shlex.quote(harmless((folder / NAME).as_posix()).replace("\n", " ")))
    tables: list[dict[str, Any]] = [{"general": _general(settings)}, {"datasets": datasets}]
    return "\n".join([header, *(dataset_text(table) for table in tables)]), [
        *(Finding("setting", "warning", "", text) for text in dict.fromkeys(findings.mistakes)),
        *(Finding("setting", "notice", "", text) for text in dict.fromkeys(findings.notices)),
    ]


def _general(settings: Settings) -> dict[str, Any]:
    """What the pictures were made for, so that the run resizes nothing any more."""
    table: dict[str, Any] = {}
    if settings.fit != "none":
        table = {"resolution": list(settings.buckets.resolution), "enable_bucket": settings.buckets.enable_bucket}
        if settings.buckets.enable_bucket:
            table |= {key: getattr(settings.buckets, key) for key in BUCKET_KEYS}
    if settings.resize_interpolation is not None:
        table["resize_interpolation"] = settings.resize_interpolation
    if settings.opacity == "keep":
        table |= {"alpha_mask": True, "background_color": settings.background_color}
    return table


def _picture_folders(root: Path, part: str, findings: Findings) -> list[PictureFolder]:
    """Every folder with pictures, at any depth; each name says its repeats and class words."""
    found: list[PictureFolder] = []
    for parent in [root, *sorted(path for path in root.rglob("*") if path.is_dir())] if root.is_dir() else []:
        if (parent == root and has_pictures(root)) or any(
            has_pictures(child) for child in parent.iterdir() if child.is_dir()
        ):
            folders = find_picture_folders(str(parent), part, findings)
            found += [each for each in folders if each.path != parent or parent == root]
    return found


def _subset(folder: PictureFolder, root: Path, settings: Settings) -> dict[str, Any]:
    table: dict[str, Any] = {"image_dir": folder.path.resolve().as_posix(), "num_repeats": folder.repeats}
    if folder.class_tokens:
        table["class_tokens"] = folder.class_tokens
    if settings.opacity == "mask":
        masks = root / MASKS / folder.path.relative_to(root)
        table["conditioning_data_dir"] = masks.resolve().as_posix()
    return table
