"""The first look at the data: everything that is wrong with it in one report, before any model is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from PIL import ImageColor

from library.config.dataset import Dataset, Subset
from library.core.runtime import available_cores
from library.data.buckets import side_range
from library.data.cache import content_hash
from library.data.captions import mentions
from library.data.findings import Finding, made_strict
from library.data.images import PictureError, inspect
from library.data.placement import face_of
from library.data.sources import LEFT_OUT, Picture, Survey, in_threads, scan
from library.data.split import balanced_repeats

FEW_PICTURES = 10

SHORTEST_SIDE = 32

WIDEST_ASPECT = 8.0

MOST_ENLARGED = 2.0

MASK_SHAPE_TOLERANCE = 0.02


def preflight(
    datasets: Sequence[Dataset], *, strict: bool = False, max_token_length: int = 75, progress: bool = False
) -> Survey:
    """Find, fully decode and judge every picture and caption.

    Args:
        datasets: the resolved datasets.
        strict: warnings become errors.
        max_token_length: captions that are surely longer are reported.
        progress: show a bar with the time left.

    Returns:
        The pictures to use, with the hash of their bytes, and the findings of every kind; bad pictures are left out
        with a warning. `findings.report` shows them, `findings.raise_errors` stops on errors.

    Raises:
        UserError: a metadata file is not of the right form.
    """
    scanned = scan(datasets)
    read = in_threads(_read, scanned.pictures, max(2, available_cores()), "checking pictures" if progress else "")
    pictures = [picture for picture, _ in read if picture is not None]
    findings = [
        *_about_settings(datasets),
        *scanned.findings,
        *(finding for _, remarks in read for finding in remarks),
        *_about_captions(pictures, datasets, max_token_length),
        *_about_sizes(pictures, datasets),
        *_about_copies(pictures),
        *_about_faces(pictures, datasets),
        *_about_regularisation(pictures),
        *_about_count(pictures, datasets),
    ]
    return Survey(pictures, made_strict(findings) if strict else findings)


def _read(picture: Picture) -> tuple[Picture | None, list[Finding]]:
    """The picture with its hash, None where it cannot be used, and what is to be said of it."""
    path = str(picture.path)
    try:
        data = picture.path.read_bytes()
        seen = inspect(data)
    except PictureError as error:
        return None, [Finding("warning", path, str(error), LEFT_OUT)]
    except OSError as error:
        return None, [Finding("warning", path, f"cannot be read ({error.strerror or error}).", LEFT_OUT)]
    picture = replace(picture, width=seen.size[0], height=seen.size[1], content=content_hash(data))
    if reason := _unusable(picture):
        return None, [Finding("warning", path, reason, LEFT_OUT)]
    findings = []
    if seen.animated:
        findings.append(Finding("warning", path, "is animated.", "Its first frame is used."))
    if seen.profile_broken:
        findings.append(Finding("notice", path, "has a broken colour profile.", "Its colours are read as sRGB."))
    picture, about_mask = _with_mask(picture)
    return picture, findings + about_mask


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
        return picture, [Finding("error", str(picture.mask_path), f"the mask {error}")]
    except OSError as error:
        return picture, [
            Finding("error", str(picture.mask_path), f"the mask cannot be read ({error.strerror or error}).")
        ]
    findings = []
    if abs(width / height * picture.height / picture.width - 1) > MASK_SHAPE_TOLERANCE:
        message = f"the mask is {width}x{height}, its picture {picture.width}x{picture.height}: not the same shape."
        findings.append(Finding("warning", str(picture.mask_path), message, "It is stretched over the picture."))
    return replace(picture, mask_content=content_hash(data)), findings


def _about_settings(datasets: Sequence[Dataset]) -> Iterator[Finding]:
    for dataset in datasets:
        config = dataset.buckets
        asked, used = (config.min_bucket_reso, config.max_bucket_reso), side_range(config)
        if config.enable_bucket and not config.bucket_no_upscale and asked != used:
            message = (
                f"min_bucket_reso {asked[0]} and max_bucket_reso {asked[1]} are not multiples of bucket_reso_steps."
            )
            yield Finding("notice", "", message, f"{used[0]} and {used[1]} are used.")
        for subset in dataset.subsets:
            if subset.cache_info:
                found = "cache_info has no effect: pictures are checked anew in every run."
                yield Finding("notice", subset.where, found)
            try:
                ImageColor.getrgb(subset.images.background_color)
            except ValueError:
                found = f"background_color '{subset.images.background_color}' is not a colour."
                yield Finding("error", subset.where, found, "Give a name such as white, or #rrggbb.")


def _about_captions(
    pictures: Sequence[Picture], datasets: Sequence[Dataset], max_token_length: int
) -> Iterator[Finding]:
    for picture in pictures:
        subset = datasets[picture.dataset].subsets[picture.subset]
        where = str(picture.caption_path or picture.path)
        lines = picture.caption.split("\n")
        if len(lines) > 1 and not subset.captions.enable_wildcard:
            found = f"the caption has {len(lines)} lines; the first is used."
            yield Finding("notice", where, found, "With enable_wildcard each is used in turn.")
            lines = lines[:1]
        yield from _about_text([_surrounded(line, subset) for line in lines], where, picture, subset, max_token_length)


def _about_text(
    lines: Sequence[str], where: str, picture: Picture, subset: Subset, max_token_length: int
) -> Iterator[Finding]:
    trigger = subset.trigger_word
    if trigger and not picture.is_reg and picture.caption and not all(mentions(line, trigger) for line in lines):
        found = f"the caption does not contain the trigger word '{trigger}'."
        yield Finding("warning", where, found, "Add it, or set caption_prefix.")
    if max(map(fewest_tokens, lines)) > max_token_length:
        found = f"the caption has more than {max_token_length} tokens; the rest is cut off."
        yield Finding("warning", where, found, "Shorten it, or raise max_token_length (75, 150 or 225).")


def _surrounded(line: str, subset: Subset) -> str:
    return " ".join(filter(None, (subset.captions.caption_prefix, line, subset.captions.caption_suffix)))


def _about_sizes(pictures: Sequence[Picture], datasets: Sequence[Dataset]) -> Iterator[Finding]:
    for picture in pictures:
        config = datasets[picture.dataset].buckets
        width, height = config.resolution
        enlarged = (width * height / (picture.width * picture.height)) ** 0.5
        if enlarged > MOST_ENLARGED and not config.bucket_no_upscale:
            found = f"is small ({picture.width}x{picture.height}) for the resolution {width}x{height}."
            yield Finding("notice", str(picture.path), found, "It is enlarged and will look soft.")


def _about_copies(pictures: Sequence[Picture]) -> Iterator[Finding]:
    """Copies of one picture within one dataset; several datasets may well train the same folder at other sizes."""
    first: dict[tuple[int, str], Picture] = {}
    for picture in pictures:
        original = first.setdefault((picture.dataset, picture.content), picture)
        if original.path != picture.path:
            yield Finding("notice", str(picture.path), f"is a copy of {original.path}.", "Both train.")


def _about_faces(pictures: Sequence[Picture], datasets: Sequence[Dataset]) -> Iterator[Finding]:
    with_face = {(picture.dataset, picture.subset) for picture in pictures if face_of(picture.path.stem) is not None}
    for number, dataset in enumerate(datasets):
        for index, subset in enumerate(dataset.subsets):
            if subset.images.face_crop_aug_range and (number, index) not in with_face:
                found = "face_crop_aug_range has no effect: no file name tells of a face."
                yield Finding(
                    "warning", subset.where, found, "Name files like anna_320_180_96_110.png: centre and size."
                )


def _about_regularisation(pictures: Sequence[Picture]) -> Iterator[Finding]:
    """Those of which there are more than of training pictures."""
    left_out = [picture for picture, times in zip(pictures, balanced_repeats(pictures)) if times == 0]
    for picture in left_out:
        found = "is a regularisation picture beyond the number of training pictures (with repeats) of its dataset."
        yield Finding("notice", str(picture.path), found, LEFT_OUT)


def _about_count(pictures: Sequence[Picture], datasets: Sequence[Dataset]) -> Iterator[Finding]:
    count = len({picture.content for picture in pictures if not picture.is_reg})
    if not any(not subset.is_reg for dataset in datasets for subset in dataset.subsets):
        yield Finding("error", "", "No training data are given.", "Set train_data_dir or dataset_config.")
    elif count == 0:
        yield Finding("error", "", "There is not one picture to train on.")
    elif count < FEW_PICTURES:
        number = "There is one picture" if count == 1 else f"There are {count} different pictures"
        yield Finding("warning", "", f"{number} to train on.", "Advised: 15 for a character, 20 for a style.")


def fewest_tokens(caption: str) -> int:
    """CLIP tokens that the caption has at least: its tokenizer never joins words, digits or runs of other signs."""
    return len(re.findall(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|(?:[^\w\s]|_)+", caption, re.IGNORECASE))
