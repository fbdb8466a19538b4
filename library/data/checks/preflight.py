"""The first look at the data: everything that is wrong with it in one report, before any model is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from PIL import ImageColor

from library.config.dataset import Dataset, Subset
from library.core.runtime import available_cores
from library.data.cache.keys import content_hash
from library.data.captions.pipeline import mentions, plain_caption
from library.data.checks.findings import Finding, made_strict
from library.data.index.sources import LEFT_OUT, Picture, Survey, in_threads, scan
from library.data.pictures.buckets import bucket_sizes, side_range, training_size
from library.data.pictures.images import PictureError, inspect
from library.data.pictures.looks import BLURRED, Bits, difference_hash, earlier_lookalikes, sharpness
from library.data.pictures.placement import covering, face_of
from library.data.pictures.room import Room
from library.data.split import balanced_repeats

FEW_PICTURES = 10

SHORTEST_SIDE = 32

WIDEST_ASPECT = 8.0

MOST_ENLARGED = 1.5

MASK_SHAPE_TOLERANCE = 0.02


@dataclass(frozen=True)
class Looked:
    """A picture that can be used, and how it looks."""

    picture: Picture
    bits: Bits
    """Its difference hash."""


def preflight(
    datasets: Sequence[Dataset],
    *,
    strict: bool = False,
    max_token_length: int = 75,
    count_tokens: Callable[[str], int] | None = None,
    progress: bool = False,
) -> Survey:
    """Find, fully decode and judge every picture and caption.

    Args:
        datasets: the resolved datasets.
        strict: warnings become errors.
        max_token_length: captions that are longer are reported.
        count_tokens: of a caption, as the model's tokenizer counts them; None: those that it has at least.
        progress: show a bar with the time left.

    Returns:
        The pictures to use, with the hash of their bytes, and the findings of every kind; bad pictures are left out
        with a warning. `findings.report` shows them, `findings.raise_errors` stops on errors.

    Raises:
        UserError: a metadata file is not of the right form.
    """
    scanned = scan(datasets)
    room = Room()

    def look_at(picture: Picture) -> tuple[Looked | None, list[Finding]]:
        width, height = datasets[picture.dataset].buckets.resolution
        with room.taken(picture.size):
            return _look_at(picture, width * height)

    read = in_threads(look_at, scanned.pictures, max(2, available_cores()), "checking pictures" if progress else "")
    looked = [each for each, _ in read if each is not None]
    pictures = [each.picture for each in looked]
    findings = [
        *_about_settings(datasets),
        *scanned.findings,
        *(finding for _, remarks in read for finding in remarks),
        *_about_captions(pictures, datasets, max_token_length, count_tokens or fewest_tokens),
        *_about_sizes(pictures, datasets),
        *_about_copies(looked),
        *_about_faces(pictures, datasets),
        *_about_regularisation(pictures),
        *_about_count(pictures, datasets),
    ]
    return Survey(pictures, made_strict(findings) if strict else findings)


def _look_at(picture: Picture, area: int) -> tuple[Looked | None, list[Finding]]:
    """The picture with its hashes, None where it cannot be used, and what is to be said of it; `area` is the training size's."""
    path = str(picture.path)
    try:
        data = picture.path.read_bytes()
        seen = inspect(data, area)
    except PictureError as error:
        return None, [Finding("unreadable", "warning", path, str(error), LEFT_OUT)]
    except OSError as error:
        return None, [Finding("unreadable", "warning", path, f"cannot be read ({error.strerror or error}).", LEFT_OUT)]
    picture = replace(picture, width=seen.size[0], height=seen.size[1], content=content_hash(data))
    if reason := _unusable(picture):
        return None, [Finding("unusable size", "warning", path, reason, LEFT_OUT)]
    findings = []
    if seen.animated:
        findings.append(Finding("animated", "warning", path, "is animated.", "Its first frame is used."))
    if seen.profile_broken:
        findings.append(
            Finding("colour profile", "notice", path, "has a broken colour profile.", "Its colours are read as sRGB.")
        )
    if not picture.is_reg and sharpness(seen.grey) < BLURRED:
        findings.append(
            Finding("blurred", "notice", path, "looks blurred, or is next to empty.", "A LoRA learns that too.")
        )
    picture, about_mask = _with_mask(picture)
    return Looked(picture, difference_hash(seen.grey)), findings + about_mask


def _unusable(picture: Picture) -> str:
    short, long = sorted(picture.size)
    if short < SHORTEST_SIDE:
        return f"is only {picture.width}x{picture.height} pixels; at least {SHORTEST_SIDE} a side are needed."
    if long / short > WIDEST_ASPECT:
        return f"is {picture.width}x{picture.height}, longer than {WIDEST_ASPECT:g}:1; cropping would lose most of it."
    return ""


def _with_mask(picture: Picture) -> tuple[Picture, list[Finding]]:
    if picture.mask_path is None:
        return picture, []
    try:
        data = picture.mask_path.read_bytes()
        width, height = inspect(data).size
    except PictureError as error:
        return picture, [Finding("mask", "error", str(picture.mask_path), f"the mask {error}")]
    except OSError as error:
        return picture, [
            Finding("mask", "error", str(picture.mask_path), f"the mask cannot be read ({error.strerror or error}).")
        ]
    findings = []
    if abs(width / height * picture.height / picture.width - 1) > MASK_SHAPE_TOLERANCE:
        message = f"the mask is {width}x{height}, its picture {picture.width}x{picture.height}: not the same shape."
        findings.append(
            Finding("mask", "warning", str(picture.mask_path), message, "It is stretched over the picture.")
        )
    return replace(picture, mask_content=content_hash(data)), findings


def _about_settings(datasets: Sequence[Dataset]) -> Iterator[Finding]:
    for dataset in datasets:
        config = dataset.buckets
        asked, used = (config.min_bucket_reso, config.max_bucket_reso), side_range(config)
        if config.enable_bucket and not config.bucket_no_upscale and asked != used:
            message = (
                f"min_bucket_reso {asked[0]} and max_bucket_reso {asked[1]} are not multiples of bucket_reso_steps."
            )
            yield Finding("setting", "notice", "", message, f"{used[0]} and {used[1]} are used.")
        for subset in dataset.subsets:
            if subset.cache_info:
                found = "cache_info has no effect: pictures are checked anew in every run."
                yield Finding("setting", "notice", subset.where, found)
            try:
                ImageColor.getrgb(subset.images.background_color)
            except ValueError:
                found = f"background_color '{subset.images.background_color}' is not a colour."
                yield Finding("setting", "error", subset.where, found, "Give a name such as white, or #rrggbb.")


def _about_captions(
    pictures: Sequence[Picture], datasets: Sequence[Dataset], max_token_length: int, count_tokens: Callable[[str], int]
) -> Iterator[Finding]:
    for picture in pictures:
        subset = datasets[picture.dataset].subsets[picture.subset]
        where = str(picture.caption_path or picture.path)
        lines = picture.caption.split("\n")
        if len(lines) > 1 and not subset.captions.enable_wildcard:
            found = f"the caption has {len(lines)} lines; the first is used."
            yield Finding("several lines", "notice", where, found, "With enable_wildcard each is used in turn.")
            lines = lines[:1]
        trigger = "" if picture.is_reg else subset.trigger_word
        if trigger and picture.caption and not all(mentions(_surrounded(line, subset), trigger) for line in lines):
            found = f"the caption does not contain the trigger word '{trigger}'."
            yield Finding("no trigger word", "warning", where, found, "Add it, or set caption_prefix.")
        if any(_is_longer(plain_caption(line, subset.captions), max_token_length, count_tokens) for line in lines):
            found = f"the caption has more than {max_token_length} tokens; the rest is cut off."
            yield Finding(
                "long caption", "warning", where, found, "Shorten it, or raise max_token_length (75, 150 or 225)."
            )


def _is_longer(caption: str, tokens: int, count_tokens: Callable[[str], int]) -> bool:
    """Whether the caption has more tokens; of a short one that is known without its tokenizer: a token is one byte at least."""
    return len(caption.encode(errors="replace")) > tokens and count_tokens(caption) > tokens


def _surrounded(line: str, subset: Subset) -> str:
    return " ".join(filter(None, (subset.captions.caption_prefix, line, subset.captions.caption_suffix)))


def _about_sizes(pictures: Sequence[Picture], datasets: Sequence[Dataset]) -> Iterator[Finding]:
    sizes = [bucket_sizes(dataset.buckets) for dataset in datasets]
    for picture in pictures:
        config = datasets[picture.dataset].buckets
        if not sizes[picture.dataset] and not config.bucket_no_upscale:
            continue  # no size is possible, which is told when the model's stride is known
        size = training_size(picture.size, config, sizes[picture.dataset])
        factor = covering(picture.size, size)[0] / picture.width
        if factor > MOST_ENLARGED:
            found = f"is {picture.width}x{picture.height} and is enlarged {factor:.1f} times to train at {size[0]}x{size[1]}."
            yield Finding("enlarged", "notice", str(picture.path), found, "It will look soft.")


def _about_copies(looked: Sequence[Looked]) -> Iterator[Finding]:
    """Pictures that are the same, or nearly, within one dataset; several may well train the same folder at other sizes."""
    first: dict[tuple[int, str], Picture] = {}
    by_dataset: dict[int, list[Looked]] = {}
    for each in looked:
        picture = each.picture
        original = first.setdefault((picture.dataset, picture.content), picture)
        if original.path != picture.path:
            yield Finding("copy", "notice", str(picture.path), f"is a copy of {original.path}.", "Both train.")
        elif not picture.is_reg:
            by_dataset.setdefault(picture.dataset, []).append(each)
    for members in by_dataset.values():
        for each, place in zip(members, earlier_lookalikes([member.bits for member in members])):
            if place is not None:
                found = f"looks almost like {members[place].picture.path}."
                yield Finding(
                    "near copy", "notice", str(each.picture.path), found, "Both train: what they show counts twice."
                )


def _about_faces(pictures: Sequence[Picture], datasets: Sequence[Dataset]) -> Iterator[Finding]:
    with_face = {(picture.dataset, picture.subset) for picture in pictures if face_of(picture.path.stem) is not None}
    for number, dataset in enumerate(datasets):
        for index, subset in enumerate(dataset.subsets):
            if subset.images.face_crop_aug_range and (number, index) not in with_face:
                found = "face_crop_aug_range has no effect: no file name tells of a face."
                yield Finding(
                    "setting",
                    "warning",
                    subset.where,
                    found,
                    "Name files like anna_320_180_96_110.png: centre and size.",
                )


def _about_regularisation(pictures: Sequence[Picture]) -> Iterator[Finding]:
    """Those of which there are more than of training pictures."""
    left_out = [picture for picture, times in zip(pictures, balanced_repeats(pictures)) if times == 0]
    for picture in left_out:
        found = "is a regularisation picture beyond the number of training pictures (with repeats) of its dataset."
        yield Finding("left out", "notice", str(picture.path), found, LEFT_OUT)


def _about_count(pictures: Sequence[Picture], datasets: Sequence[Dataset]) -> Iterator[Finding]:
    count = len({picture.content for picture in pictures if not picture.is_reg})
    if not any(not subset.is_reg for dataset in datasets for subset in dataset.subsets):
        yield Finding(
            "no pictures", "error", "", "No training data are given.", "Set train_data_dir or dataset_config."
        )
    elif count == 0:
        yield Finding("no pictures", "error", "", "There is not one picture to train on.")
    elif count < FEW_PICTURES:
        number = "There is one picture" if count == 1 else f"There are {count} different pictures"
        yield Finding(
            "few pictures", "warning", "", f"{number} to train on.", "Advised: 15 for a character, 20 for a style."
        )


def fewest_tokens(caption: str) -> int:
    """CLIP tokens that the caption has at least: its tokenizer never joins words, digits or runs of other signs."""
    return len(re.findall(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|(?:[^\w\s]|_)+", caption, re.IGNORECASE))
