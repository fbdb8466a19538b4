"""What the data were, for the LoRA file's metadata, in the words of sd-scripts (`ss_*`) that other programs read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from library.config.dataset import Subset
from library.data.dataset import TrainingData
from library.data.index.pictures import Pictures
from library.data.pictures.buckets import bucket_sizes


def summary(data: TrainingData) -> dict[str, Any]:
    """`ss_datasets`, `ss_dataset_dirs`, `ss_reg_dataset_dirs`, `ss_bucket_info`, `ss_tag_frequency`, `ss_num_train_images`,
    `ss_num_reg_images`, `ss_num_validation_images`, each ready for JSON.

    Held-out pictures count nowhere but in the last; a picture's repeats count in the totals and buckets, not in tags.
    """
    numbers = range(len(data.material.datasets))
    described = [_dataset(data, number) for number in numbers]
    tags: dict[str, dict[str, int]] = {}
    for entry in described:
        for folder, frequency in entry["tag_frequency"].items():
            tags.setdefault(folder, frequency)
    return {
        "ss_datasets": described,
        "ss_dataset_dirs": _folders(data, is_reg=False),
        "ss_reg_dataset_dirs": _folders(data, is_reg=True),
        "ss_bucket_info": described[0]["bucket_info"] if len(described) == 1 else None,
        "ss_tag_frequency": tags,
        "ss_num_train_images": sum(entry["num_train_images"] for entry in described),
        "ss_num_reg_images": sum(entry["num_reg_images"] for entry in described),
        "ss_num_validation_images": len(data.validation) if data.validation is not None else 0,
    }


def _dataset(data: TrainingData, number: int) -> dict[str, Any]:
    config = data.material.datasets[number].buckets
    pictures, subsets = data.material.pictures, data.material.datasets[number].subsets
    mine_N, is_reg_N = pictures.of_subsets("dataset") == number, pictures.of_subsets("is_reg").astype(bool)
    return {
        "is_dreambooth": all(subset.metadata_file is None for subset in subsets),
        "batch_size_per_device": config.train_batch_size,
        "num_train_images": int(data.repeats[mine_N & ~is_reg_N].sum()),
        "num_reg_images": int(data.repeats[mine_N & is_reg_N].sum()),
        "resolution": list(config.resolution),
        "enable_bucket": config.enable_bucket,
        "min_bucket_reso": config.min_bucket_reso if config.enable_bucket else None,
        "max_bucket_reso": config.max_bucket_reso if config.enable_bucket else None,
        "bucket_no_upscale": config.bucket_no_upscale,
        "tag_frequency": _tag_frequency(pictures, number, subsets),
        "bucket_info": _bucket_info(data, number),
        "subsets": [_subset(subset, _count(data, number, index)) for index, subset in enumerate(subsets)],
    }


def _subset(subset: Subset, count: int) -> dict[str, Any]:
    captions, images = subset.captions, subset.images
    return {
        "img_count": count,
        "num_repeats": subset.num_repeats,
        "color_aug": images.color_aug,
        "flip_aug": images.flip_aug,
        "random_crop": images.random_crop,
        "shuffle_caption": captions.shuffle_caption,
        "keep_tokens": captions.keep_tokens,
        "keep_tokens_separator": captions.keep_tokens_separator,
        "secondary_separator": captions.secondary_separator,
        "enable_wildcard": captions.enable_wildcard,
        "caption_prefix": captions.caption_prefix,
        "caption_suffix": captions.caption_suffix,
        "resize_interpolation": images.resize_interpolation,
        "image_dir": subset.image_dir.name if subset.image_dir else None,
        "metadata_file": subset.metadata_file.name if subset.metadata_file else None,
        "class_tokens": subset.class_tokens,
        "is_reg": subset.is_reg,
        "custom_attributes": subset.custom_attributes,
    }


def _count(data: TrainingData, dataset: int, subset: int) -> int:
    """Different pictures of a subset that are trained."""
    pictures = data.material.pictures
    mine_N = (pictures.of_subsets("dataset") == dataset) & (pictures.of_subsets("subset") == subset)
    return int((mine_N & (data.repeats > 0)).sum())


def _folders(data: TrainingData, is_reg: bool) -> dict[str, dict[str, int]]:
    folders: dict[str, dict[str, int]] = {}
    for number, dataset in enumerate(data.material.datasets):
        for index, subset in enumerate(dataset.subsets):
            if subset.is_reg == is_reg:
                facts = {"n_repeats": subset.num_repeats, "img_count": _count(data, number, index)}
                folders[_unused(_name(subset), folders)] = facts
    return folders


def _name(subset: Subset) -> str:
    """The last part of the folder's or metadata file's path: paths themselves are nobody else's business."""
    return (subset.metadata_file or subset.image_dir or Path("unnamed")).name


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    """The name, with a number where another folder has it already."""
    number, candidate = 2, name
    while candidate in taken:
        candidate, number = f"{name} ({number})", number + 1
    return candidate


def _tag_frequency(pictures: Pictures, dataset: int, subsets: tuple[Subset, ...]) -> dict[str, dict[str, int]]:
    """For each folder, training folders first, how many captions hold each tag; of lines that are never trained, none."""
    frequency: dict[str, Counter[str]] = {}
    numbered = [(number, facts) for number, facts in enumerate(pictures.subsets) if facts.dataset == dataset]
    for number, facts in sorted(numbered, key=lambda each: each[1].is_reg):
        subset, rows = subsets[facts.subset], np.flatnonzero(pictures.rows_N["subset"] == number).tolist()
        counter = frequency.setdefault(_name(subset), Counter()) if rows else Counter()
        for row in rows:
            lines = pictures.caption(row).split("\n")
            used = lines if subset.captions.enable_wildcard else lines[:1]
            counter.update(tag for line in used for tag in (part.strip().lower() for part in line.split(",")) if tag)
    return {folder: dict(counter.most_common()) for folder, counter in frequency.items()}


def _bucket_info(data: TrainingData, number: int) -> dict[str, Any] | None:
    """Samples of each bucket, numbered by its place among all possible ones, and how far shapes are from their bucket's."""
    config = data.material.datasets[number].buckets
    if not config.enable_bucket:
        return None
    filled = [bucket for bucket in data.plan.buckets if bucket.dataset == number]
    places = bucket_sizes(config) or [bucket.size for bucket in filled]
    pictures, sizes = data.material.pictures, data.material.sizes
    shown_N = (pictures.of_subsets("dataset") == number) & (data.repeats > 0)
    trained_M = np.array([width / height for width, height in sizes.different] or [0.0])[sizes.numbers_N[shown_N]]
    errors_M = np.abs(trained_M - pictures.rows_N["width"][shown_N] / pictures.rows_N["height"][shown_N])
    buckets = {
        str(places.index(bucket.size) if bucket.size in places else len(places)): {
            "resolution": list(bucket.size),
            "count": bucket.samples,
        }
        for bucket in filled
    }
    return {"buckets": buckets, "mean_img_ar_error": float(errors_M.mean()) if len(errors_M) else 0.0}
