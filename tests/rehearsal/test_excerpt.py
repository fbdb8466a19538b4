"""The part of the data that stands for all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from library.config.dataset import resolve_datasets
from library.config.load import load_config
from library.data.cache.jobs import latent_jobs
from library.data.checks.preflight import preflight
from library.data.dataset import TrainingData, build_training_data
from library.rehearsal.excerpt import excerpt, shapes_of, validation_batches

SIZES = [(64, 64)] * 9 + [(96, 48)] * 4 + [(48, 96)] * 3


@pytest.fixture
def training_data(tmp_path: Path) -> Callable[..., TrainingData]:
    """`training_data(**options)`: sixteen pictures of three shapes, in batches of three."""
    for number, size in enumerate(SIZES):
        noise_HWC = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise_HWC).save(tmp_path / f"{number:02d}.png")
        (tmp_path / f"{number:02d}.txt").write_text(f"hero, {number}", encoding="utf-8")

    def build(**options: object) -> TrainingData:
        given = {
            "pretrained_model_name_or_path": tmp_path, "train_data_dir": tmp_path, "resolution": 64, "enable_bucket": "true",
            "min_bucket_reso": 32, "bucket_reso_steps": 16, "train_batch_size": 3, "output_dir": tmp_path / "out", **options,
        }  # fmt: skip
        loaded = load_config([word for key, value in given.items() for word in (f"--{key}", str(value))])
        datasets, _ = resolve_datasets(loaded.config)
        return build_training_data(datasets, preflight(datasets).pictures, seed=3, stride=8)

    return build


def test_shapes_are_those_of_the_run_the_largest_first(training_data: Callable[..., TrainingData]) -> None:
    plan = training_data().plan
    epochs = 4
    batches = [plan.batch(step) for step in range(epochs * plan.updates_per_epoch)]
    shapes = shapes_of(plan, len(batches))
    assert {shape.bucket.size: shape.updates for shape in shapes} == Counter(batch.size for batch in batches)
    samples = Counter(batch.size for batch in batches for _ in batch.entries)
    assert {shape.bucket.size: shape.samples for shape in shapes} == samples
    assert [shape.pixels for shape in shapes] == sorted(
        ({batch.size: batch.size[0] * batch.size[1] * 3 for batch in batches}).values(), reverse=True
    )
    half = shapes_of(plan, len(batches) // 2)
    assert sum(shape.updates for shape in half) == pytest.approx(len(batches) / 2)


def test_a_shape_alone_is_its_fullest_batch_over_and_over(training_data: Callable[..., TrainingData]) -> None:
    data = training_data()
    for shape in shapes_of(data.plan, 10):
        alone = shape.alone(data)
        for step in (0, 7):
            batch = alone.plan.batch(step)
            assert batch.size == shape.bucket.size
            assert len(batch.entries) == 3
        assert shape.full_updates == pytest.approx(shape.samples / 3)


def test_only_what_is_needed_is_cached(training_data: Callable[..., TrainingData]) -> None:
    data = training_data(validation_split=0.25)
    shapes = shapes_of(data.plan, 10)[:1]
    count, group = validation_batches(data, None)
    assert count == len(list(data.validation.batches(3)))
    needed = excerpt(data, shapes, group, ([], []), at_least=2)
    jobs = list(latent_jobs(needed, "vae"))
    trained = {
        data.material.pictures[index].path for index in shapes[0].bucket.entries(np.arange(shapes[0].bucket.samples))[0]
    }
    held_out = {data.validation.material.pictures[index].path for index in group}
    assert {job.picture.path for job in jobs} == trained | held_out
    assert len(needed.validation) == len(group)
    assert needed.updates_per_epoch == data.updates_per_epoch, "the plan stays that of the run"


def test_some_of_what_is_not_cached_is_always_needed(training_data: Callable[..., TrainingData]) -> None:
    """So that the time for the rest can be told."""
    data = training_data()
    shapes = shapes_of(data.plan, 10)[:1]
    jobs = [job for job in latent_jobs(data, "vae") if job.picture.path.stem in ("13", "14", "15")]
    needed = excerpt(data, shapes, [], (jobs, ["hero, 12"]), at_least=2)
    added = set(needed.captions_in_use()) - {
        data.material.pictures[index].caption
        for index in shapes[0].bucket.entries(np.arange(shapes[0].bucket.samples))[0]
    }
    assert added == {"hero, 12", "hero, 13", "hero, 14"}


def test_validation_measures_no_more_than_it_may(training_data: Callable[..., TrainingData]) -> None:
    data = training_data(validation_split=0.5)
    count, group = validation_batches(data, None)
    sizes = data.validation.material.sizes
    largest = max(len(batch) * sizes[batch[0]][0] * sizes[batch[0]][1] for batch in data.validation.groups(3))
    assert len(group) * sizes[group[0]][0] * sizes[group[0]][1] == largest
    assert count > 1
    assert validation_batches(data, 1) == (1, data.validation.groups(3)[0])
    assert validation_batches(training_data(), None) == (0, [])
