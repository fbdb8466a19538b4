from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from library.data.checks.preflight import preflight
from library.data.dataset import build_training_data
from library.data.summary import summary

Make = Callable[..., Path]


def test_the_words_of_sd_scripts(folder: Make, subset, dataset) -> None:
    training = subset(folder(6, "10_alex man", caption="Alex, red hair"), num_repeats=10, class_tokens="alex man")
    regularisation = subset(folder(2, "1_man", caption="man"), is_reg=True)
    datasets = [dataset(regularisation, training, enable_bucket=True, train_batch_size=4)]
    data = build_training_data(datasets, preflight(datasets).pictures, seed=0, stride=8)
    facts = json.loads(json.dumps(summary(data)))

    assert facts["ss_num_train_images"] == 60 and facts["ss_num_reg_images"] == 60
    assert list(facts["ss_tag_frequency"]) == ["10_alex man", "1_man"]
    assert facts["ss_tag_frequency"]["10_alex man"] == {"alex": 6, "red hair": 6}
    assert facts["ss_dataset_dirs"] == {"10_alex man": {"n_repeats": 10, "img_count": 6}}
    assert facts["ss_reg_dataset_dirs"] == {"1_man": {"n_repeats": 1, "img_count": 2}}
    (described,) = facts["ss_datasets"]
    assert (
        described["resolution"] == [64, 64] and described["batch_size_per_device"] == 4 and described["is_dreambooth"]
    )
    assert [entry["image_dir"] for entry in described["subsets"]] == ["1_man", "10_alex man"]
    buckets = facts["ss_bucket_info"]["buckets"].values()
    assert sum(bucket["count"] for bucket in buckets) == 120
    assert {tuple(bucket["resolution"]): bucket["count"] for bucket in buckets} == {(64, 64): 100, (80, 48): 20}
    wide, square = abs(80 / 48 - 1.5), 0.0
    assert abs(facts["ss_bucket_info"]["mean_img_ar_error"] - (2 * wide + 6 * square) / 8) < 1e-9


@pytest.mark.parametrize(("wildcards", "counted"), [(False, {"a": 2, "b": 2}), (True, {"a": 2, "b": 2, "c": 2})])
def test_tags_of_lines_that_are_not_trained_do_not_count(folder: Make, subset, dataset, wildcards, counted) -> None:
    datasets = [dataset(subset(folder(2, caption="A, b\nc"), enable_wildcard=wildcards))]
    data = build_training_data(datasets, preflight(datasets).pictures, seed=0, stride=8)
    assert summary(data)["ss_tag_frequency"] == {"pictures": counted}


def test_several_datasets_without_buckets(folder: Make, subset, dataset) -> None:
    path = folder(5)
    datasets = [dataset(subset(path), validation_split=0.2), dataset(subset(path), resolution=[32, 32])]
    data = build_training_data(datasets, preflight(datasets).pictures, seed=0, stride=8)
    facts = summary(data)
    assert facts["ss_bucket_info"] is None
    assert list(facts["ss_dataset_dirs"]) == ["pictures", "pictures (2)"]
    assert [entry["num_train_images"] for entry in facts["ss_datasets"]] == [4, 4]
    assert facts["ss_num_validation_images"] == 1
    assert str(path) not in json.dumps(facts)
