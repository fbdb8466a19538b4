from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from library.core.errors import Exit, UserError, UserErrors
from library.data.cache.filling import cache_latents, cache_texts
from library.data.cache.jobs import latent_jobs
from library.data.cache.store import TensorCache
from library.data.checks.preflight import preflight
from library.data.dataset import Prior, TrainingData, build_training_data
from library.data.examples import key_of_latents, load_pixels
from library.data.pictures.placement import centred
from library.data.types import BrokenLatents, Conditioning, LatentDistribution
from tests.data.cache.shard_files import records

Make = Callable[..., Path]


class Vae:
    """Latents are means of 8x8 pixels; keeps the sizes of the batches it was given."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []

    def __call__(self, pixels_BCHW: Tensor) -> LatentDistribution:
        self.batches.append(tuple(pixels_BCHW.shape))
        mean_BChw = avg_pool2d(pixels_BCHW, 8)
        return LatentDistribution(mean_BChw, mean_BChw.abs() / 10)


class Encoder:
    """A caption's length and letters as its hidden states."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def __call__(self, captions: Sequence[str]) -> Conditioning:
        self.batches.append(list(captions))
        lengths_B = torch.tensor([float(sum(caption.encode())) for caption in captions])
        return {"hidden": lengths_B[:, None, None].expand(-1, 2, 3), "pooled": lengths_B[:, None]}


def build(
    path: Path, subset, dataset, *, rank: int = 0, processes: int = 1, prior: Prior | None = None, **settings
) -> TrainingData:
    validation_split = settings.pop("validation_split", 0.0)
    datasets = [
        dataset(subset(path, **settings), enable_bucket=True, train_batch_size=2, validation_split=validation_split)
    ]
    pictures = preflight(datasets).pictures
    return build_training_data(datasets, pictures, seed=3, stride=8, rank=rank, processes=processes, prior=prior)


def all_examples(data: TrainingData, epochs: int = 2) -> list:
    steps = epochs * data.updates_per_epoch
    return [example for key in data.step_keys(0, steps) for example in data[key].examples]


@pytest.mark.parametrize("on_disk", [False, True])
def test_cached_examples_equal_encoded_ones(tmp_path: Path, folder: Make, subset, dataset, on_disk: bool) -> None:
    plain = build(folder(9), subset, dataset, flip_aug=True, validation_split=0.2)
    vae = Vae()
    cache = TensorCache(tmp_path / "cache" if on_disk else None)
    cached = cache_latents(plain, vae, fingerprint="vae", cache=cache, batch_size=4)
    assert sum(shape[0] for shape in vae.batches) == 2 * 7 + 2
    assert max(shape[0] for shape in vae.batches) == 4
    pairs = list(zip(all_examples(plain), all_examples(cached)))
    pairs += zip(*([e for batch in data.validation.batches(3) for e in batch] for data in (plain, cached)))
    for with_pixels, with_latents in pairs:
        assert with_latents.pixels is None and with_pixels.latents is None
        assert torch.equal(with_latents.latents.mean, avg_pool2d(with_pixels.pixels, 8))
        assert replace(with_latents, latents=None) == replace(with_pixels, pixels=None)


def test_a_warm_cache_never_calls_the_encoder(tmp_path: Path, folder: Make, subset, dataset) -> None:
    data = build(folder(6), subset, dataset)
    first, second, other_vae = Vae(), Vae(), Vae()
    cache_latents(data, first, fingerprint="vae", cache=TensorCache(tmp_path / "cache"))
    cached = cache_latents(data, second, fingerprint="vae", cache=TensorCache(tmp_path / "cache"))
    assert len(first.batches) == 6 and second.batches == []
    assert all_examples(cached)[0].latents is not None
    cache_latents(data, other_vae, fingerprint="another", cache=TensorCache(tmp_path / "cache"))
    assert len(other_vae.batches) == 6


def test_only_what_changed_is_encoded_again(tmp_path: Path, folder: Make, picture: Make, subset, dataset) -> None:
    path, cache = folder(6), TensorCache(tmp_path / "cache")
    cache_latents(build(path, subset, dataset), Vae(), fingerprint="vae", cache=cache)
    before = (path / "03.png").stat()
    picture(path / "03.png", seed=99)
    os.utime(path / "03.png", ns=(before.st_atime_ns, before.st_mtime_ns))  # the time stamp says nothing
    (path / "04.png").rename(path / "renamed.png")
    (path / "04.txt").rename(path / "renamed.txt")
    records(tmp_path / "cache")[0].write(0, b"damaged")
    vae = Vae()
    cache_latents(build(path, subset, dataset), vae, fingerprint="vae", cache=cache)
    assert len(vae.batches) in (1, 2)  # the damaged entry may be that of the changed picture
    flipped = Vae()
    cache_latents(build(path, subset, dataset, flip_aug=True), flipped, fingerprint="vae", cache=cache)
    assert len(flipped.batches) == 6


def test_processes_share_the_work_on_disk_and_double_it_in_memory(
    tmp_path: Path, folder: Make, subset, dataset
) -> None:
    path = folder(9)
    for rank in range(2):
        data = build(path, subset, dataset, rank=rank, processes=2)
        alone, vae = Vae(), Vae()
        cache_latents(data, alone, fingerprint="vae", cache=TensorCache())
        cache_latents(data, vae, fingerprint="vae", cache=TensorCache(tmp_path / "cache"))
        assert len(alone.batches) == 9
        assert len(vae.batches) == (5, 4)[rank]
    rest = Vae()
    cache_latents(build(path, subset, dataset), rest, fingerprint="vae", cache=TensorCache(tmp_path / "cache"))
    assert rest.batches == []


def test_latents_that_are_not_finite_name_their_picture(folder: Make, subset, dataset) -> None:
    data = build(folder(6), subset, dataset)
    worst = data.material.pictures[3]
    pixels = load_pixels(data.material, worst, centred(worst.size, data.material.sizes[3]))[0]

    def encode(pixels_BCHW: Tensor) -> LatentDistribution:
        same = [
            place for place, one in enumerate(pixels_BCHW) if one.shape == pixels.shape and torch.equal(one, pixels)
        ]
        if same:
            raise BrokenLatents(same)
        return Vae()(pixels_BCHW)

    with pytest.raises(UserError, match=f"{worst.path.name}: .*not finite.*leave the picture out") as caught:
        cache_latents(data, encode, fingerprint="vae", cache=TensorCache(), batch_size=3)
    assert sum(picture.path.name in str(caught.value) for picture in data.material.pictures) == 1
    assert caught.value.exit_code == Exit.BROKEN_VALUES


def test_encoded_captions_that_are_not_finite_are_named(folder: Make, subset, dataset) -> None:
    path = folder(3)
    (path / "01.txt").write_text("the worst", encoding="utf-8")

    def encode(captions: Sequence[str]) -> Conditioning:
        found = Encoder()(captions)
        found["pooled"][[caption == "the worst" for caption in captions]] = float("inf")
        return found

    with pytest.raises(UserError, match="caption 'the worst'") as caught:
        cache_texts(build(path, subset, dataset), encode, fingerprint="te", cache=TensorCache())
    assert caught.value.exit_code == Exit.BROKEN_VALUES


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("change", ["removed", "changed", "mask removed", "mask changed"])
def test_what_goes_between_the_scan_and_the_caching_is_told_and_nothing_is_kept(
    tmp_path: Path, folder: Make, picture: Make, subset, dataset, change: str, on_disk: bool
) -> None:
    path = folder(3)
    for number in range(3):
        picture(tmp_path / "masks" / f"{number:02d}.png", (96, 64) if number == 2 else (64, 64), seed=number)
    data = build(path, subset, dataset, conditioning_data_dir=str(tmp_path / "masks"))
    file = (tmp_path / "masks" if "mask" in change else path) / "01.png"
    file.unlink()
    if "changed" in change:
        picture(file, seed=99)
    cache = TensorCache(tmp_path / "cache" if on_disk else None)
    with pytest.raises(UserError, match=rf"{file}: was .* (since|when) the run began"):
        cache_latents(data, Vae(), fingerprint="vae", cache=cache)
    key = key_of_latents(data.material, data.material.pictures[1], centred((64, 64), (64, 64)), "vae")
    assert cache.get(key) is None


def test_pictures_that_go_after_the_caching_are_not_missed(folder: Make, picture: Make, subset, dataset) -> None:
    path = folder(3)
    cached = cache_latents(build(path, subset, dataset), Vae(), fingerprint="vae", cache=TensorCache())
    before = all_examples(cached)
    (path / "00.png").unlink()
    picture(path / "01.png", seed=99)
    for one, other in zip(before, all_examples(cached)):
        assert torch.equal(one.latents.mean, other.latents.mean)


def test_pictures_of_one_name_have_latents_of_their_own(tmp_path: Path, picture: Make, subset, dataset) -> None:
    picture(tmp_path / "a.png", seed=1, caption="both")
    picture(tmp_path / "a.jpg", seed=2)
    vae = Vae()
    plain = build(tmp_path, subset, dataset)
    cached = cache_latents(plain, vae, fingerprint="vae", cache=TensorCache(tmp_path / "cache"))
    assert len(vae.batches) == len(records(tmp_path / "cache")) == 2
    for with_pixels, with_latents in zip(all_examples(plain), all_examples(cached)):
        assert with_latents.caption == "both"
        assert torch.equal(with_latents.latents.mean, avg_pool2d(with_pixels.pixels, 8))


def test_whatever_shapes_latents_is_encoded_again_when_it_changes(
    tmp_path: Path, folder: Make, picture: Make, subset, dataset
) -> None:
    """Resolution, flip, filter, background and mask; what is as it was is found again."""
    path, cache = folder(3), TensorCache(tmp_path / "cache")
    masks = {"conditioning_data_dir": str(tmp_path / "masks")}
    for number in range(3):
        picture(tmp_path / "masks" / f"{number:02d}.png", (96, 64) if number == 2 else (64, 64), seed=number)

    def encoded(resolution: int = 64, fingerprint: str = "vae", **settings: object) -> int:
        datasets = [dataset(subset(path, **settings), enable_bucket=True, resolution=[resolution, resolution])]
        data = build_training_data(datasets, preflight(datasets).pictures, seed=3, stride=8)
        vae = Vae()
        cache_latents(data, vae, fingerprint=fingerprint, cache=cache)
        return len(vae.batches)

    assert [encoded(), encoded()] == [3, 0]
    for change in (
        {"resolution": 48},
        {"flip_aug": True},
        {"resize_interpolation": "area"},
        {"background_color": "black"},
        {"alpha_mask": True},
        {"fingerprint": "another"},
        masks,
    ):
        assert [encoded(**change), encoded(**change), encoded()] == [3, 0, 0], change
    stamp = (tmp_path / "masks" / "01.png").stat()
    picture(tmp_path / "masks" / "01.png", seed=99)
    os.utime(tmp_path / "masks" / "01.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert encoded(**masks) == 1


def test_damaged_entries_are_made_anew_and_are_right(
    tmp_path: Path, folder: Make, subset, dataset, caplog: pytest.LogCaptureFixture
) -> None:
    """Lost, written over, and with one bit flipped among the latents, which no format notices by itself."""
    data, cache = build(folder(6), subset, dataset), TensorCache(tmp_path / "cache")
    before = all_examples(cache_latents(data, Vae(), fingerprint="vae", cache=cache))
    first, second, third, *_ = records(tmp_path / "cache")
    first.write(0, bytes(first.end - first.offset))
    second.write(100, b"something else")
    third.flip(8 * (third.end - third.offset) - 20)
    vae = Vae()
    after = all_examples(cache_latents(data, vae, fingerprint="vae", cache=cache))
    assert sum(shape[0] for shape in vae.batches) == 3
    assert [record.message for record in caplog.records] == [
        f"warning: cache file {first.data} is damaged: entries that are not whole are struck out, and made anew."
    ]
    for one, other in zip(before, after):
        assert torch.equal(one.latents.mean, other.latents.mean) and torch.equal(one.latents.std, other.latents.std)


@pytest.mark.parametrize("setting", [{"random_crop": True}, {"color_aug": True}, {"face_crop_aug_range": [1.0, 2.0]}])
def test_options_that_rule_latents_out(folder: Make, subset, dataset, setting) -> None:
    data = build(folder(3), subset, dataset, **setting)
    with pytest.raises(UserError, match=f"{next(iter(setting))} of data.toml"):
        cache_latents(data, Vae(), fingerprint="vae", cache=TensorCache())


def test_masks_are_cached_with_their_latents(tmp_path: Path, folder: Make, picture: Make, subset, dataset) -> None:
    path = folder(4)
    for number in range(4):
        picture(tmp_path / "masks" / f"{number:02d}.png", (96, 64) if number == 2 else (64, 64), seed=number)
    plain = build(path, subset, dataset, conditioning_data_dir=str(tmp_path / "masks"), flip_aug=True)
    cached = cache_latents(plain, Vae(), fingerprint="vae", cache=TensorCache())
    for with_pixels, with_latents in zip(all_examples(plain), all_examples(cached)):
        assert with_latents.mask.shape == (1, *with_latents.latents.mean.shape[1:])
        assert torch.equal(with_latents.mask, with_pixels.mask)


def test_every_caption_that_can_come_is_encoded_once(tmp_path: Path, folder: Make, subset, dataset) -> None:
    settings = {"caption_dropout_rate": 0.2, "trigger_word": "alex", "class_word": "man", "enable_wildcard": True}
    path = folder(9, caption="alex, {red|blue} hair")
    data = build(path, subset, dataset, prior=Prior(prior_prediction_rate=0.4), validation_split=0.2, **settings)
    encoder = Encoder()
    cached = cache_texts(data, encoder, fingerprint="te", cache=TensorCache(tmp_path / "cache"), batch_size=2)
    expected = {"", *(f"{who}, {hair} hair" for who in ("alex", "man") for hair in ("red", "blue"))}
    assert sorted(caption for batch in encoder.batches for caption in batch) == sorted(expected)
    examples = all_examples(cached, epochs=20)
    assert {example.caption for example in examples} == expected
    examples += [example for batch in cached.validation.batches(2) for example in batch]
    for example in examples:
        assert example.conditioning["pooled"].tolist() == [float(sum(example.caption.encode()))]
        assert example.conditioning["hidden"].shape == (2, 3)
    again = Encoder()
    cache_texts(data, again, fingerprint="te", cache=TensorCache(tmp_path / "cache"))
    assert again.batches == []


def test_captions_that_vary_too_much_name_the_option(folder: Make, subset, dataset) -> None:
    data = build(folder(3, caption="a, b, c, d, e, f, g"), subset, dataset, shuffle_caption=True)
    with pytest.raises(UserError, match="shuffle_caption"):
        cache_texts(data, Encoder(), fingerprint="te", cache=TensorCache())


@pytest.mark.skipif(os.name == "nt", reason="what is open cannot be deleted there")
def test_deleting_the_cache_does_a_run_no_harm(tmp_path: Path, folder: Make, subset, dataset) -> None:
    data = build(folder(4), subset, dataset)
    cache = TensorCache(tmp_path / "cache")
    cached = cache_latents(data, Vae(), fingerprint="", cache=cache)
    shutil.rmtree(tmp_path / "cache")
    for ours, plain in zip(all_examples(cached), all_examples(data)):
        assert ours.latents is not None and torch.equal(ours.latents.mean, Vae()(plain.pixels[None]).mean[0])
    again = TensorCache(tmp_path / "cache")  # another run
    with pytest.raises(UserError, match=r"vanished while the run was on. Start again \(or resume\)"):
        all_examples(data.with_latents(replace(cached.material.latents, cache=again)))


@pytest.mark.skipif(os.name == "nt", reason="what is open cannot be deleted there")
@pytest.mark.parametrize("when", [1, 3, 4])
def test_deleting_the_cache_while_it_is_filled(
    tmp_path: Path, folder: Make, subset, dataset, caplog: pytest.LogCaptureFixture, when: int
) -> None:
    """At the start, in the middle, at the end: what is lacking then is encoded again."""
    data, vae = build(folder(4), subset, dataset), Vae()
    cache = TensorCache(tmp_path / "cache")

    def encode(pixels_BCHW: Tensor) -> LatentDistribution:
        if len(vae.batches) == when:
            cache.flush()
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        return vae(pixels_BCHW)

    cached = cache_latents(data, encode, fingerprint="", cache=cache)
    assert len(all_examples(cached)) == len(all_examples(data))
    assert len(vae.batches) >= 4


def test_all_pictures_that_cannot_be_read_are_named_and_the_others_are_cached(
    tmp_path: Path, folder: Make, picture: Make, subset, dataset
) -> None:
    path = folder(9)
    data = build(path, subset, dataset)
    (path / "01.png").unlink()
    picture(path / "05.png", (96, 64), seed=99)
    (path / "08.png").write_bytes((path / "08.png").read_bytes()[:60])
    with pytest.raises(UserErrors) as caught:
        cache_latents(data, Vae(), fingerprint="vae", cache=TensorCache(tmp_path / "cache"), batch_size=4)
    assert sorted(re.findall(r"(\d\d)\.png", "".join(caught.value.messages))) == ["01", "05", "08"]
    assert len(records(tmp_path / "cache")) == 6
    picture(path / "01.png", seed=98)
    vae = Vae()
    cache_latents(build(path, subset, dataset), vae, fingerprint="vae", cache=TensorCache(tmp_path / "cache"))
    assert sum(shape[0] for shape in vae.batches) == 2, "one is new, one is another, and the damaged one is left out"


def test_an_interrupted_filling_goes_on_where_it_was(tmp_path: Path, folder: Make, subset, dataset) -> None:
    data, calls = build(folder(9), subset, dataset), []

    def interrupted(pixels_BCHW: Tensor) -> LatentDistribution:
        calls.append(pixels_BCHW.shape[0])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return Vae()(pixels_BCHW)

    with pytest.raises(KeyboardInterrupt):
        cache_latents(data, interrupted, fingerprint="vae", cache=TensorCache(tmp_path / "cache"))
    rest = Vae()
    cache_latents(data, rest, fingerprint="vae", cache=TensorCache(tmp_path / "cache"))
    assert len(rest.batches) == 9 - 3


def test_what_is_missing_is_kept_as_numbers(tmp_path: Path, folder: Make, subset, dataset) -> None:
    data = build(folder(9), subset, dataset, flip_aug=True, validation_split=0.2)
    jobs = latent_jobs(data, "vae")
    assert len(jobs) == len({job.key for job in jobs}) == 2 * 7 + 2
    assert jobs.numbers_J.nbytes == 8 * len(jobs)
    trained = [(job.index, job.placement.flip) for job in jobs if job.material is data.material]
    assert trained == [(index, flipped) for index in range(7) for flipped in (False, True)]
    cache = TensorCache(tmp_path / "cache")
    for job in jobs[::3]:
        cache.put(job.key, {"mean": torch.zeros(1)})
    lacking = jobs.lacking(cache)
    assert [job.key for job in lacking] == [job.key for place, job in enumerate(jobs) if place % 3]
    batches = list(lacking.batches(3))
    assert sorted(job.key for batch in batches for job in batch) == sorted(job.key for job in lacking)
    assert all(len({job.placement.target for job in batch}) == 1 and len(batch) <= 3 for batch in batches)
    assert [batch[0].placement.target for batch in batches] == sorted(batch[0].placement.target for batch in batches)


def test_copies_of_a_picture_are_encoded_once(tmp_path: Path, folder: Make, subset, dataset) -> None:
    path = folder(4)
    for number in range(3):
        (path / f"copy{number}.png").write_bytes((path / "00.png").read_bytes())
    vae = Vae()
    cache_latents(build(path, subset, dataset), vae, fingerprint="vae", cache=TensorCache(tmp_path / "cache"))
    assert len(vae.batches) == 4
