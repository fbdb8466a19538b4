from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from library.config.dataset import Dataset, find_datasets, resolve_datasets
from library.config.findings import Findings
from library.config.schema import CaptionConfig, Config
from library.config.schema.data import BucketConfig, DataConfig
from library.core.errors import UserError, UserErrors

DATASET_KEYS = """
resolution = [512, 768]
batch_size = 2
enable_bucket = true
min_bucket_reso = 128
max_bucket_reso = 768
bucket_reso_steps = 32
bucket_no_upscale = true
validation_split = 0.1
validation_seed = 3
network_multiplier = 0.5
"""

SHARED_KEYS = """
num_repeats = 2
shuffle_caption = true
caption_separator = ";"
keep_tokens = 1
keep_tokens_separator = "|||"
secondary_separator = ";;;"
enable_wildcard = true
caption_prefix = "p"
caption_suffix = "s"
color_aug = true
flip_aug = true
random_crop = true
face_crop_aug_range = [1.0, 2.0]
token_warmup_min = 2
token_warmup_step = 10
custom_attributes = {}
resize_interpolation = "area"
caption_dropout_rate = 0.1
caption_dropout_every_n_epochs = 2
caption_tag_dropout_rate = 0.1
caption_extension = ".txt"
class_tokens = "man"
cache_info = true
"""


def a_picture(folder: Path, name: str = "a.png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"")


def config_with(**data: Any) -> Config:
    return Config(data=DataConfig(**{key: str(v) if isinstance(v, Path) else v for key, v in data.items()}))


def only(datasets: list[Dataset]) -> Dataset:
    assert len(datasets) == 1
    return datasets[0]


def test_subset_wins_over_dataset_over_general_over_main(tmp_path: Path) -> None:
    a_picture(tmp_path)
    config = config_with(
        general={"keep_tokens": 1, "flip_aug": True, "shuffle_caption": True, "batch_size": 3, "num_repeats": 2},
        datasets=[
            {
                "keep_tokens": 2,
                "resolution": 256,
                "flip_aug": False,
                "subsets": [
                    {"image_dir": str(tmp_path), "keep_tokens": 3, "custom_attributes": {"a": [1]}},
                    {"image_dir": str(tmp_path), "is_reg": True, "class_tokens": "man", "num_repeats": 5},
                ],
            },
            {"subsets": [{"image_dir": str(tmp_path)}]},
        ],
    )
    config = replace(config, captions=CaptionConfig(caption_dropout_rate=0.5), buckets=BucketConfig(enable_bucket=True))
    (first, second), notices = resolve_datasets(config)
    assert notices == []
    one, two = first.subsets
    assert (one.captions.keep_tokens, two.captions.keep_tokens, second.subsets[0].captions.keep_tokens) == (3, 2, 1)
    assert (one.images.flip_aug, second.subsets[0].images.flip_aug) == (False, True)
    assert one.captions.shuffle_caption and one.captions.caption_dropout_rate == 0.5
    assert (one.num_repeats, two.num_repeats) == (2, 5)
    assert (one.is_reg, two.is_reg, two.class_tokens) == (False, True, "man")
    assert (first.buckets.resolution, second.buckets.resolution) == ([256, 256], [512, 512])
    assert first.buckets.train_batch_size == second.buckets.train_batch_size == 3
    assert first.buckets.enable_bucket
    assert one.custom_attributes == {"a": [1]}
    assert one.where.endswith("datasets[0].subsets[0]")


def test_dataset_repeats_count_where_no_table_says_otherwise(tmp_path: Path) -> None:
    a_picture(tmp_path)
    tables = [{"subsets": [{"image_dir": str(tmp_path)}, {"image_dir": str(tmp_path), "num_repeats": 2}]}]
    (dataset,) = resolve_datasets(config_with(datasets=tables, dataset_repeats=7))[0]
    assert [subset.num_repeats for subset in dataset.subsets] == [7, 2]


def test_every_table_key_of_sd_scripts_is_known(tmp_path: Path) -> None:
    a_picture(tmp_path)
    dataset = tomllib.loads(DATASET_KEYS)
    shared = tomllib.loads(SHARED_KEYS)
    places = {"image_dir": str(tmp_path), "is_reg": True, "alpha_mask": True, "conditioning_data_dir": str(tmp_path)}
    subsets = [{**shared, **places}]
    config = config_with(general={**dataset, **shared}, datasets=[{**dataset, **shared, "subsets": subsets}])
    found = only(resolve_datasets(config)[0])
    assert found.buckets.resolution == [512, 768]
    assert found.subsets[0].captions.secondary_separator == ";;;"
    assert found.subsets[0].images.face_crop_aug_range == [1.0, 2.0]
    assert found.subsets[0].images.alpha_mask


@pytest.mark.parametrize("ending", ["toml", "json"])
def test_dataset_config_file(tmp_path: Path, ending: str) -> None:
    a_picture(tmp_path / "pictures")
    folder = (tmp_path / "pictures").as_posix()
    file = tmp_path / f"data.{ending}"
    if ending == "json":
        file.write_text(json.dumps({"datasets": [{"batch_size": 2, "subsets": [{"image_dir": folder}]}]}))
    else:
        text = f'[[datasets]]\nbatch_size = 2\n[[datasets.subsets]]\nimage_dir = "{folder}"\n'
        file.write_text(text, encoding="utf-8-sig")
    found = only(resolve_datasets(config_with(dataset_config=file))[0])
    assert found.buckets.train_batch_size == 2
    assert found.subsets[0].image_dir == tmp_path / "pictures"


def test_mistakes_in_tables_are_told_at_once_with_file_and_table(tmp_path: Path) -> None:
    file = tmp_path / "data.toml"
    file.write_text(
        "surplus = 1\n[general]\nkeep_tokenz = 1\nlearning_rate = 1\n"
        '[[datasets]]\nresolution = "big"\nis_reg = true\n'
        '[[datasets.subsets]]\nimage_dir = "nowhere"\nbatch_size = 2\nnum_repeats = 0\n'
        "[[datasets.subsets]]\n[[datasets]]\n",
        encoding="utf-8",
    )
    with pytest.raises(UserErrors) as error:
        resolve_datasets(config_with(dataset_config=file))
    text = str(error.value)
    for part in (
        "unknown key 'surplus'",
        "data.toml: general: unknown key 'keep_tokenz'. Did you mean 'keep_tokens'?",
        "general: 'learning_rate' is an option of the run",
        'data.toml: datasets[0]: resolution = "big": expected',
        "datasets[0]: 'is_reg' belongs in [[datasets.subsets]]",
        'datasets[0].subsets[0]: image_dir = "nowhere": no such folder',
        "datasets[0].subsets[0]: 'batch_size' belongs in [[datasets]]",
        "datasets[0].subsets[0]: num_repeats = 0: expected a number from 1 to 100000",
        "datasets[0].subsets[1]: neither image_dir nor metadata_file",
        "datasets[1]: no [[datasets.subsets]]",
    ):
        assert part in text
    assert len(error.value.messages) == 10


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.toml", None, "cannot be read"),
        ("broken.toml", "[[datasets]\n", "not valid TOML"),
        ("broken.json", "{", "not valid JSON"),
        ("empty.toml", "", "no [[datasets]]"),
        ("wrong.toml", "datasets = 3\n", "expected a table [general] and tables [[datasets]]"),
    ],
)
def test_unreadable_dataset_files(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as error:
        resolve_datasets(config_with(dataset_config=tmp_path / name))
    assert message in str(error.value)
    assert name in str(error.value)


def test_folders_give_repeats_and_class_tokens(tmp_path: Path) -> None:
    root = tmp_path / "train"
    for name in ("10_mychar man", "3_other_thing", "plain", "0_unused", ".hidden", "20_empty"):
        a_picture(root / name)
    (root / "20_empty" / "a.png").unlink()
    a_picture(tmp_path / "reg" / "1_man", "b.JPG")
    datasets, notices = resolve_datasets(config_with(train_data_dir=root, reg_data_dir=tmp_path / "reg"))
    found = [(s.image_dir.name, s.num_repeats, s.class_tokens, s.is_reg) for s in only(datasets).subsets if s.image_dir]
    assert found == [
        ("10_mychar man", 10, "mychar man", False),
        ("3_other_thing", 3, "other_thing", False),
        ("plain", 1, None, False),
        ("1_man", 1, "man", True),
    ]
    assert any("'plain' is used with 1 repeat" in notice for notice in notices)
    assert any("'0_unused' is left out" in notice for notice in notices)


def test_folders_without_a_picture_whose_names_ask_for_repeats_are_told(tmp_path: Path) -> None:
    for name in ("10_anna", "3_nothing", "0_unused", "notes"):
        a_picture(tmp_path / "train" / name)
    a_picture(tmp_path / "reg" / "1_man")
    (tmp_path / "reg" / "2_bare").mkdir()
    (tmp_path / "reg" / "circle.png").symlink_to("circle.png")
    for name in ("3_nothing", "0_unused", "notes"):
        (tmp_path / "train" / name / "a.png").rename(tmp_path / "train" / name / "readme.md")
    findings = Findings()
    config = config_with(train_data_dir=tmp_path / "train", reg_data_dir=tmp_path / "reg")
    assert len(only(find_datasets(config, findings)).subsets) == 2
    nothing, bare = findings.warnings
    assert (
        nothing
        == f"train_data_dir: the folder '{tmp_path / 'train/3_nothing'}' is left out: there are no pictures in it."
    )
    assert bare.startswith("reg_data_dir") and "2_bare" in bare


def test_pictures_directly_in_the_folder_are_used_beside_subfolders(tmp_path: Path) -> None:
    a_picture(tmp_path)
    subset = only(resolve_datasets(config_with(train_data_dir=tmp_path))[0]).subsets[0]
    assert (subset.image_dir, subset.num_repeats, subset.class_tokens) == (tmp_path, 1, None)
    a_picture(tmp_path / "2_x")
    datasets, notices = resolve_datasets(config_with(train_data_dir=tmp_path))
    assert [subset.num_repeats for subset in only(datasets).subsets] == [1, 2]
    assert "directly in" in notices[0]


def test_a_folder_without_pictures_is_an_error_that_looks_deeper(tmp_path: Path) -> None:
    a_picture(tmp_path / "project" / "10_x")
    with pytest.raises(UserError, match=r"no pictures in it.*is that the folder you mean") as error:
        resolve_datasets(config_with(train_data_dir=tmp_path))
    assert str(tmp_path / "project") in str(error.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train_data_dir.*does not exist"):
        resolve_datasets(config_with(train_data_dir=tmp_path / "none"))


def test_in_json_with_train_data_dir(tmp_path: Path) -> None:
    file = tmp_path / "meta.json"
    file.write_text("{}", encoding="utf-8")
    config = config_with(train_data_dir=tmp_path, in_json=file, dataset_repeats=4, trigger_word="t")
    subset = only(resolve_datasets(config)[0]).subsets[0]
    assert (subset.image_dir, subset.metadata_file, subset.num_repeats) == (tmp_path, file, 4)
    assert subset.trigger_word == "t"
    with pytest.raises(UserError, match=r'metadata_file = ".*other\.json": no such file'):
        resolve_datasets(config_with(in_json=tmp_path / "other.json"))


def test_unknown_keys_may_be_let_pass(tmp_path: Path) -> None:
    a_picture(tmp_path)
    config = config_with(datasets=[{"surplus": 1, "subsets": [{"image_dir": str(tmp_path)}]}])
    with pytest.raises(UserError, match="surplus"):
        resolve_datasets(config)
    warned = replace(config, config=replace(config.config, unknown_keys="warn"))
    assert len(resolve_datasets(warned)[0]) == 1
