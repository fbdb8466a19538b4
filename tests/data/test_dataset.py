from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from library.core.errors import UserError
from library.data.checks.preflight import preflight
from library.data.dataset import Prior, TrainingData, build_training_data
from library.data.types import Example

Make = Callable[..., Path]


def build(datasets, **settings) -> TrainingData:
    return build_training_data(datasets, preflight(datasets).pictures, **{"seed": 5, "stride": 8, **settings})


def flat(example: Example) -> tuple:
    """What an example is, comparable."""
    tensors = [None if tensor is None else tensor.tolist() for tensor in (example.pixels, example.mask)]
    return (*tensors, *(value for name, value in vars(example).items() if name not in ("pixels", "mask")))


def step_examples(data: TrainingData, step: int) -> list[tuple]:
    return [flat(e) for micro in range(data.accumulation) for e in data[step, micro].examples]


@pytest.fixture
def lively(folder: Make, subset, dataset):
    """A dataset in which everything is drawn at random."""
    asked = subset(
        folder(10, caption="alex, red hair, boxing, blue shorts"),
        num_repeats=2,
        flip_aug=True,
        random_crop=True,
        color_aug=True,
        shuffle_caption=True,
        caption_dropout_rate=0.2,
        caption_tag_dropout_rate=0.1,
        keep_tokens=1,
        trigger_word="alex",
        class_word="man",
    )
    return dataset(asked, enable_bucket=True, resolution=[48, 48], train_batch_size=4, validation_split=0.1)


def test_examples_are_complete(folder: Make, subset, dataset) -> None:
    datasets = [dataset(subset(folder(12)), enable_bucket=True, train_batch_size=3, network_multiplier=0.5)]
    data = build(datasets)
    batch = data[0, 0]
    assert (batch.step, batch.micro, batch.epoch, batch.global_size) == (0, 0, 0, len(batch.examples))
    assert len({example.pixels.shape for example in batch.examples}) == 1
    for slot, example in enumerate(batch.examples):
        width, height = (96, 64) if int(Path(example.image).stem) % 3 == 2 else (64, 64)
        target = tuple(example.pixels.shape[1:])
        assert example.position == (0, slot)
        assert example.caption == "alex, red hair, boxing"
        assert example.geometry.original_size == (height, width) and example.geometry.target_size == target
        assert (example.weight, example.keeps_prior, example.multiplier) == (1.0, False, 0.5)
        assert example.latents is example.conditioning is example.mask is None


def test_the_crop_told_is_the_crop_done(folder: Make, subset, dataset) -> None:
    data = build([dataset(subset(folder(6), random_crop=True, flip_aug=True))])
    for step in range(12):
        (example,) = data[step, 0].examples
        with Image.open(example.image) as image:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        top, left = example.geometry.crop_top_left
        crops = [whole[:, top : top + 64, left : left + 64] / 127.5 - 1 for whole in (pixels, pixels.flip(2))]
        assert any(torch.allclose(example.pixels, crop, atol=1e-6) for crop in crops)


@pytest.mark.parametrize(("batch_size", "processes", "accumulation"), [(1, 4, 1), (2, 1, 2), (1, 2, 2), (1, 1, 4)])
def test_the_same_global_batch_holds_the_same_samples(
    lively, batch_size: int, processes: int, accumulation: int
) -> None:
    whole = build([lively], prior=Prior(prior_prediction_rate=0.5))
    config = replace(lively, buckets=replace(lively.buckets, train_batch_size=batch_size))
    shared = [
        build(
            [config], rank=rank, processes=processes, accumulation=accumulation, prior=Prior(prior_prediction_rate=0.5)
        )
        for rank in range(processes)
    ]
    assert {data.updates_per_epoch for data in shared} == {whole.updates_per_epoch}
    for step in range(whole.updates_per_epoch + 2):
        parts = [sample for data in shared for sample in step_examples(data, step)]
        assert sorted(parts, key=lambda sample: sample[2]) == step_examples(whole, step)
        assert {data[step, 0].global_size for data in shared} == {len(parts)}


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_and_resuming_change_nothing(lively) -> None:
    data = build([lively], accumulation=2)
    whole = [data[key] for key in data.step_keys(0, 9)]
    keys = data.step_keys(4, 9)
    resumed = list(DataLoader(data, sampler=keys, batch_size=None, num_workers=2, multiprocessing_context="spawn"))
    assert [(b.step, b.micro, b.epoch, b.global_size) for b in resumed] == [
        (b.step, b.micro, b.epoch, b.global_size) for b in whole[8:]
    ]
    assert [list(map(flat, b.examples)) for b in resumed] == [list(map(flat, b.examples)) for b in whole[8:]]


def test_showings_differ_and_seeds_differ(lively) -> None:
    data = build([lively])
    steps = 3 * data.updates_per_epoch
    by_image: dict[str, set[str]] = {}
    captions = Counter()
    for step in range(steps):
        for example in data[step, 0].examples:
            by_image.setdefault(example.image, set()).add(str(example.pixels.tolist()))
            captions[example.caption] += 1
    assert all(len(showings) >= 2 for showings in by_image.values())
    assert len(set.union(*by_image.values())) > 30  # of 54 showings; square pictures vary by flip and colour only
    assert len(captions) > 10 and captions[""] >= 3
    assert step_examples(build([lively], seed=6), 0) != step_examples(data, 0)


def test_prior_prediction_replaces_the_trigger_at_its_rate(folder: Make, subset, dataset) -> None:
    path = folder(10)
    (path / "00.txt").write_text("somebody else", encoding="utf-8")
    datasets = [dataset(subset(path, trigger_word="alex", class_word="man"))]
    data = build(datasets, prior=Prior(prior_prediction_rate=0.3, prior_prediction_weight=0.7))
    examples = [data[step, 0].examples[0] for step in range(400)]
    with_trigger = [example for example in examples if not example.image.endswith("00.png")]
    assert 0.22 < sum(example.keeps_prior for example in with_trigger) / len(with_trigger) < 0.38
    for example in examples:
        kept = example.keeps_prior
        assert example.weight == (0.7 if kept else 1.0)
        if example.image.endswith("00.png"):
            assert not kept  # nothing in its caption calls the character: it is not unlearnt
        else:
            assert example.caption in (["man, red hair, boxing", ""] if kept else ["alex, red hair, boxing"])
    empty = sum(not example.caption for example in examples) / sum(example.keeps_prior for example in examples)
    assert 0.12 < empty < 0.4  # the unconditional prediction is kept too


def test_prior_prediction_needs_a_trigger(folder: Make, subset, dataset) -> None:
    with pytest.raises(UserError, match="needs trigger_word"):
        build([dataset(subset(folder(3)))], prior=Prior(prior_prediction_rate=0.3))


def test_regularisation_pictures_have_their_weight_and_number(folder: Make, subset, dataset) -> None:
    training = subset(folder(4), num_repeats=3, trigger_word="alex", class_word="man")
    regularisation = subset(folder(5, "reg", caption="man"), is_reg=True)
    data = build([dataset(training, regularisation)], prior=Prior(prior_loss_weight=0.25, prior_prediction_rate=1.0))
    examples = [data[step, 0].examples[0] for step in range(data.updates_per_epoch)]
    counts = Counter("reg" in Path(example.image).parts[-2] for example in examples)
    assert counts == {False: 12, True: 12}
    assert {(e.weight, e.keeps_prior) for e in examples if "/reg/" in Path(e.image).as_posix()} == {(0.25, False)}
    assert {(e.weight, e.keeps_prior) for e in examples if "/reg/" not in Path(e.image).as_posix()} == {(1.0, True)}


def test_pictures_whose_output_is_kept_have_their_own_captions_and_weights(folder: Make, subset, dataset) -> None:
    kept = subset(folder(2), custom_attributes={"diff_output_preservation": True}, trigger_word="alex")
    plain = subset(folder(2, "other"), custom_attributes={"diff_output_preservation": False})
    regularisation = subset(
        folder(4, "reg", caption="man"), is_reg=True, custom_attributes={"diff_output_preservation": True}
    )
    data = build([dataset(kept, plain, regularisation)], prior=Prior(prior_loss_weight=0.25))
    examples = [data[step, 0].examples[0] for step in range(data.updates_per_epoch)]
    roles = {Path(e.image).parts[-2]: (e.keeps_prior, e.weight) for e in examples}
    assert sorted(roles.values()) == [(False, 1.0), (True, 0.25), (True, 1.0)] and roles["reg"] == (True, 0.25)
    assert {e.caption for e in examples} == {"alex, red hair, boxing", "man"}


def test_prior_prediction_asks_no_trigger_of_pictures_whose_output_is_kept(folder: Make, subset, dataset) -> None:
    trained = subset(folder(2), trigger_word="alex", class_word="man")
    kept = subset(folder(2, "kept", caption="a dog"), custom_attributes={"diff_output_preservation": True})
    called = subset(
        folder(2, "called", caption="alex, a cat"), custom_attributes=kept.custom_attributes, trigger_word="alex"
    )
    data = build([dataset(trained, kept, called)], prior=Prior(prior_prediction_rate=1.0))
    drawn = {data[step, 0].examples[0].caption for step in range(20 * data.updates_per_epoch)}
    assert set(data.captions_in_use()) == drawn | {"alex, red hair, boxing"}
    assert drawn == {"", "man, red hair, boxing", "a dog", "alex, a cat"}, "and none that is never asked for"


def test_datasets_keep_their_own_sizes_and_batches(folder: Make, subset, dataset) -> None:
    small = dataset(subset(folder(4)), resolution=[32, 32], train_batch_size=4)
    large = dataset(subset(folder(4)), resolution=[64, 64], train_batch_size=2)
    data = build([small, large])
    shapes = Counter(
        (len(batch.examples), tuple(batch.examples[0].pixels.shape))
        for batch in (data[step, 0] for step in range(data.updates_per_epoch))
    )
    assert shapes == {(4, (3, 32, 32)): 1, (2, (3, 64, 64)): 2}


def test_held_out_pictures_are_always_the_same(lively) -> None:
    data, later = build([lively]), build([lively], rank=1, processes=2)
    assert data.validation is not None and later.validation is not None
    shown = {e.image for step in range(3 * data.updates_per_epoch) for e in data[step, 0].examples}
    batches = list(data.validation.batches(4))
    held = [example for batch in batches for example in batch]
    assert len(held) == len(data.validation) == 1 and not shown & {example.image for example in held}
    assert [flat(e) for b in later.validation.batches(4) for e in b] == [flat(example) for example in held]
    assert held[0].caption == "alex, red hair, boxing, blue shorts" and not held[0].keeps_prior


def test_validation_batches_have_one_size(folder: Make, subset, dataset) -> None:
    data = build([dataset(subset(folder(12)), enable_bucket=True, validation_split=0.75)])
    batches = list(data.validation.batches(2))
    assert all(len({e.pixels.shape for e in batch}) == 1 and len(batch) <= 2 for batch in batches)
    assert sorted(e.position for batch in batches for e in batch) == [(0, n) for n in range(9)]


def test_alpha_masks(tmp_path: Path, subset, dataset) -> None:
    image = Image.new("RGBA", (64, 64), (200, 10, 10, 255))
    image.paste((0, 0, 0, 0), (0, 0, 32, 64))
    image.save(tmp_path / "half.png")
    Image.new("RGB", (64, 64), (10, 10, 200)).save(tmp_path / "whole.jpg")
    data = build([dataset(subset(tmp_path, alpha_mask=True), train_batch_size=2)])
    masks = {Path(e.image).stem: e.mask[0, 0].tolist() for e in data[0, 0].examples}
    assert masks == {"half": [0.0] * 4 + [1.0] * 4, "whole": [1.0] * 8}


@pytest.mark.parametrize("change", ["remove", "rewrite"])
def test_pictures_gone_or_changed_after_the_scan(folder: Make, picture: Make, subset, dataset, change: str) -> None:
    path = folder(2)
    data = build([dataset(subset(path), train_batch_size=2)])
    if change == "remove":
        (path / "01.png").unlink()
    else:
        picture(path / "01.png", seed=77)
    with pytest.raises(UserError, match=r"01\.png"):
        data[0, 0]


def test_sizes_that_the_model_cannot_have(folder: Make, subset, dataset) -> None:
    with pytest.raises(UserError, match="resolution 60x64"):
        build([dataset(subset(folder(2)), resolution=[60, 64])])


def test_more_processes_than_samples_leave_some_without(folder: Make, subset, dataset) -> None:
    parts = [build([dataset(subset(folder(2)))], rank=rank, processes=4)[0, 0] for rank in range(4)]
    assert [len(part.examples) for part in parts] == [1, 1, 0, 0]
    assert {part.global_size for part in parts} == {2}


def test_the_fingerprint_knows_the_data(folder: Make, subset, dataset) -> None:
    path = folder(4)
    first = build([dataset(subset(path))]).fingerprint()
    assert build([dataset(subset(path))], rank=1).fingerprint() == first
    assert build([dataset(subset(path, num_repeats=2))]).fingerprint() != first
    (path / "01.txt").write_text("other", encoding="utf-8")
    assert build([dataset(subset(path))]).fingerprint() != first


def test_a_warmup_of_tags_may_be_a_share_of_the_run(folder: Make, subset, dataset) -> None:
    data = build([dataset(subset(folder(3), token_warmup_step=0.5))], max_train_steps=10).for_run_of(20)
    lengths = [len(data[step, 0].examples[0].caption.split(", ")) for step in (0, 5, 9, 10)]
    assert lengths == [1, 2, 2, 3]
