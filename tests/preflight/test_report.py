"""What the report holds, against counts that are made by hand or by the trainer's own code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from library.config.dataset import resolve_datasets
from library.data.checks.findings import Finding
from library.data.dataset import build_training_data
from library.preflight.report import FORMAT, Report, as_json, of_mistakes

BUCKETS = ("--enable_bucket", "--min_bucket_reso", 32, "--max_bucket_reso", 128, "--bucket_reso_steps", 16)


@pytest.fixture
def pictures(tmp_path: Path, picture) -> Path:
    """Seven square ones three times, five wide ones twice, and four of regularisation."""
    for number in range(7):
        picture(tmp_path / f"pictures/3_anna/{number}.png", (64, 64), number, f"anna, red hat, pose {number}")
    for number in range(5):
        picture(tmp_path / f"pictures/2_anna far/{number}.png", (192, 96), 20 + number, "hat, walking")
    for number in range(4):
        picture(tmp_path / f"reg/1_woman/{number}.png", (64, 64), 40 + number, "woman")
    return tmp_path / "pictures"


def test_subsets_and_captions(pictures: Path, tmp_path: Path, checked) -> None:
    report = checked("--reg_data_dir", tmp_path / "reg", "--trigger_word", "anna").report
    (dataset,) = report.datasets
    rows = {
        Path(each.folder).name: (each.pictures, each.num_repeats, each.samples, each.is_reg) for each in dataset.subsets
    }
    assert rows == {"3_anna": (7, 3, 21, False), "2_anna far": (5, 2, 10, False), "1_woman": (4, 1, 31, True)}
    assert report.pictures is not None and report.captions is not None
    assert (report.pictures.count, report.pictures.regularisation) == (16, 4)
    assert (report.pictures.smallest, report.pictures.largest) == ((64, 64), (192, 96))
    assert report.captions.count == 12 and report.captions.with_trigger == {"anna": (7, 12)}
    assert report.captions.different == 8
    tags = dict(report.captions.frequent_tags)
    assert (tags["anna"], tags["red hat"], tags["hat"], tags["pose 3"]) == (7, 7, 5, 1)
    assert report.captions.different_tags == 4 + 7


def test_buckets_and_steps_by_hand(pictures: Path, checked) -> None:
    report = checked(
        *BUCKETS, "--train_batch_size", 2, "--gradient_accumulation_steps", 2, "--max_train_epochs", 5
    ).report
    square, wide = report.buckets
    assert (square.size, square.pictures, square.samples) == ((64, 64), 7, 21)
    assert (square.batch_size, square.batches, square.last_batch, square.cropped) == (4, 6, 1, 0)
    assert (wide.pictures, wide.samples, wide.batches, wide.last_batch) == (5, 10, 3, 2)
    width, height = wide.size
    resized = max(width / 192, height / 96)
    assert wide.cropped == pytest.approx(1 - width * height / (round(192 * resized) * round(96 * resized)))
    assert report.plan is not None
    assert (report.plan.steps_per_epoch, report.plan.samples_per_epoch, report.plan.steps) == (9, 31, 45)
    assert report.plan.epochs == 5 and report.plan.showings == pytest.approx(5 * 31 / 12)


def test_showings_are_those_of_training_pictures(tmp_path: Path, picture, checked) -> None:
    """Ten times an epoch, however many pictures of regularisation share the epoch with them."""
    for number in range(2):
        picture(tmp_path / f"pictures/10_anna/{number}.png", (64, 64), number, "anna")
    for number in range(12):
        picture(tmp_path / f"reg/1_woman/{number}.png", (64, 64), 40 + number, "woman")
    plan = checked("--reg_data_dir", tmp_path / "reg", "--max_train_epochs", 3).report.plan
    assert plan is not None and plan.samples_per_epoch == 2 * 10 + 20 and plan.showings == pytest.approx(3 * 10)


def test_triggers_are_not_asked_of_pictures_that_stay_as_they_were(tmp_path: Path, picture, checked) -> None:
    for number in range(2):
        picture(tmp_path / f"pictures/{number}.png", (64, 64), number, "anna, hat")
        picture(tmp_path / f"kept/{number}.png", (64, 64), 9 + number, "a woman")
    text = "[[datasets]]\n" + "".join(
        f"[[datasets.subsets]]\nimage_dir = '{(tmp_path / name).as_posix()}'\n{more}\n"
        for name, more in (("pictures", ""), ("kept", "custom_attributes = {diff_output_preservation = true}"))
    )
    (tmp_path / "data.toml").write_text(text, encoding="utf-8")
    options = ("--dataset_config", tmp_path / "data.toml", "--train_data_dir", "", "--trigger_word", "anna")
    report = checked(*options).report
    assert report.captions is not None and report.captions.with_trigger == {"anna": (2, 2)}
    assert "no trigger word" not in {each.kind for each in report.findings}


def test_the_plan_is_the_trainers(pictures: Path, tmp_path: Path, checked) -> None:
    found = checked(
        *BUCKETS, "--reg_data_dir", tmp_path / "reg", "--train_batch_size", 3, "--validation_split", 0.3, "--seed", 5,
        "--max_train_steps", 100,
    )  # fmt: skip
    datasets, _ = resolve_datasets(found.loaded.config)
    data = build_training_data(datasets, found.survey.pictures, seed=5, stride=8)
    plan, report = found.report.plan, found.report
    assert plan is not None and data.validation is not None and report.pictures is not None
    assert plan.steps_per_epoch == data.updates_per_epoch and plan.samples_per_epoch == sum(
        each.samples for each in data.plan.buckets
    )
    assert plan.epochs == pytest.approx(100 / data.updates_per_epoch)
    assert [(each.size, each.samples, each.batches) for each in report.buckets] == [
        (each.size, each.samples, each.batches) for each in data.plan.buckets
    ]
    assert report.pictures.held_out == len(data.validation) == round(0.3 * 12)
    assert sum(subset.held_out for dataset in report.datasets for subset in dataset.subsets) == len(data.validation)


def test_findings_count_what_the_table_counts(tmp_path: Path, picture, checked) -> None:
    for number in range(12):
        picture(tmp_path / f"pictures/1_hero/{number}.png", (64, 64), number, "anna")
        picture(tmp_path / f"pictures/9_more/{number}.png", (64, 64), 20 + number, "anna")
    picture(tmp_path / "reg/1_man/0.png", (64, 64), 50, "man")
    report = checked("--reg_data_dir", tmp_path / "reg", "--validation_split", 0.25, "--seed", 4).report
    hero, more, man = (subset for dataset in report.datasets for subset in dataset.subsets)
    assert hero.held_out > 0 and hero.held_out + more.held_out == 6
    (few,) = (finding for finding in report.findings if finding.kind == "few pictures")
    assert few.message.startswith("There are 18 different pictures")
    seldom, reg = (finding for finding in report.findings if finding.kind == "class imbalance")
    assert seldom.path == hero.folder and f"is shown {hero.samples} times an epoch" in seldom.message
    assert f"{more.folder} {more.samples} times" in seldom.message
    assert (
        reg.message == f"1 regularisation picture for 18 training pictures: each is shown {man.samples} times an epoch."
    )


def test_without_pictures_there_is_a_report_too(tmp_path: Path, checked) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"")
    report = checked().report
    assert not report.ready and report.plan is None and report.buckets == []
    assert {finding.kind for finding in report.findings} >= {"no pictures", "unreadable"}
    assert json.loads(as_json(report))["pictures"]["smallest"] is None


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--validation_split", 1.0), "validation_split"),
        (
            ("--enable_bucket", "--min_bucket_reso", 32, "--resolution", 48, "--bucket_reso_steps", 64),
            "bucket_reso_steps",
        ),
    ],
)
def test_what_the_run_would_end_with_is_an_error(
    pictures: Path, checked, options: tuple[object, ...], names: str
) -> None:
    report = checked(*options).report
    assert not report.ready and report.plan is None
    assert [names in finding.message for finding in report.findings if finding.severity == "error"] == [True]


def test_strict_makes_warnings_errors(pictures: Path, picture, checked) -> None:
    (pictures / "3_anna" / "page.png").write_text("<!DOCTYPE html>", encoding="utf-8")
    assert checked().report.ready and not checked("--strict", "true").report.ready


def test_the_keys_of_the_json_stay(pictures: Path, checked) -> None:
    """Other programs read them: a key that goes or changes its meaning needs another `format`."""
    report = Report(
        **{**vars(checked(*BUCKETS).report), "findings": [Finding("blurred", "notice", "a\x1b\u202e\udc80", "m")]}
    )
    text = as_json(report)
    assert text.isascii() and "\x1b" not in text
    document = json.loads(text)
    assert document["findings"] == [
        {
            "kind": "blurred",
            "severity": "notice",
            "path": "a\x1b\u202e\udc80",
            "message": "m",
            "advice": "",
            "picture": "",
            "other": "",
        }
    ]
    assert document["format"] == FORMAT == 1
    assert list(document) == [
        "format", "ready", "counts", "findings", "setup", "datasets", "pictures", "captions", "buckets", "plan", "estimates",
        "not_estimated", "price_per_hour", "cost",
    ]  # fmt: skip
    assert document["counts"] == {"errors": 0, "warnings": 0, "notices": 1}
    assert list(document["setup"]) == [
        "files", "pretrained_model_name_or_path", "output_name", "network_module", "network_dim", "network_alpha", "optimizer_type",
        "learning_rate", "lr_scheduler", "lr_warmup_steps", "mixed_precision", "strict",
    ]  # fmt: skip
    assert list(document["datasets"][0]) == ["resolution", "enable_bucket", "train_batch_size", "subsets"]
    assert list(document["datasets"][0]["subsets"][0]) == [
        "where", "folder", "is_reg", "num_repeats", "trigger_word", "pictures", "held_out", "samples",
    ]  # fmt: skip
    assert list(document["pictures"]) == ["count", "regularisation", "held_out", "smallest", "median", "largest"]
    assert list(document["captions"]) == [
        "count", "counted", "empty", "different", "median_words", "with_trigger", "different_tags", "frequent_tags",
    ]  # fmt: skip
    assert list(document["buckets"][0]) == [
        "dataset", "size", "pictures", "samples", "batches", "batch_size", "last_batch", "cropped",
    ]  # fmt: skip
    assert list(document["plan"]) == [
        "steps", "epochs", "steps_per_epoch", "samples_per_epoch", "showings", "gradient_accumulation_steps", "processes", "resume",
    ]  # fmt: skip


def test_mistakes_of_the_configuration_have_the_same_form() -> None:
    document = json.loads(as_json(of_mistakes(["network_dim: no.", "seed: no."])))
    assert document["ready"] is False and document["counts"]["errors"] == 2
    assert [each["message"] for each in document["findings"]] == ["network_dim: no.", "seed: no."]
    assert document["plan"] is None and document["datasets"] == []


def test_tags_that_are_as_frequent_stand_as_they_were_met(tmp_path: Path, picture, checked) -> None:
    for number in range(3):
        picture(tmp_path / f"pictures/{number}.png", (64, 64), number, "zoe, woman, anna, hat, zoe, boots, tie")
    captions = checked().report.captions
    assert captions is not None
    assert captions.frequent_tags == [(tag, 3) for tag in ("zoe", "woman", "anna", "hat", "boots", "tie")]


def test_the_same_notice_stands_there_once(tmp_path: Path, picture, checked) -> None:
    picture(tmp_path / "pictures/a.png")
    settings = "[[datasets]]\nresolution = {}\nmin_bucket_reso = 50\nenable_bucket = true\n[[datasets.subsets]]\nimage_dir = '{}'\n"
    text = "".join(settings.format(side, (tmp_path / "pictures").as_posix()) for side in (64, 128))
    (tmp_path / "data.toml").write_text(text, encoding="utf-8")
    report = checked("--dataset_config", tmp_path / "data.toml", "--train_data_dir", "").report
    messages = [each.message for each in report.findings if "min_bucket_reso" in each.message]
    assert len(messages) == 1
