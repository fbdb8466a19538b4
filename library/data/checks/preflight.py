"""The first look at the data: everything that is wrong with it in one report, before any model is loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import ImageColor

from library.config.dataset import Dataset, Subset
from library.core.errors import UserError
from library.data.captions.pipeline import plain_caption, surrounded, whole_word
from library.data.checks.appearance import about_empty, about_exposure, about_focus, about_transparency
from library.data.checks.counts import about_counts
from library.data.checks.findings import Finding, Severity, made_strict
from library.data.checks.remarks import Remarks
from library.data.checks.sizes import about_sizes
from library.data.checks.tags import about_tags
from library.data.index.look import Looker
from library.data.index.manifest import open_manifest
from library.data.index.pictures import Pictures, rows_of_subsets
from library.data.index.sources import LEFT_OUT, Found, Scanner, Survey
from library.data.pictures.buckets import side_range
from library.data.pictures.images import silence_pillow_on_sizes
from library.data.pictures.looks import earlier_lookalikes, is_empty, nearest_side
from library.data.pictures.placement import face_of
from library.data.split import balanced_repeats, hold_out

MOST_COMPARED = 100_000
"""Pictures of a dataset among which near copies are looked for."""

TOKEN_LENGTHS = (75, 150, 225)
"""What max_token_length may be."""


def fewest_tokens(caption: str) -> int:
    """CLIP tokens that the caption has at least: its tokenizer never joins words, digits or runs of other signs."""
    return len(re.findall(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|(?:[^\w\s]|_)+", caption, re.IGNORECASE))


def preflight(
    datasets: Sequence[Dataset],
    *,
    seed: int = 0,
    strict: bool = False,
    max_token_length: int = 75,
    count_tokens: Callable[[str], int] = fewest_tokens,
    manifest: Path | None = None,
    progress: bool = False,
) -> Survey:
    """Find and judge every picture and caption.

    Args:
        datasets: the resolved datasets.
        seed: of the run, which tells the pictures that are held out.
        strict: warnings become errors.
        max_token_length: captions that are longer are reported.
        count_tokens: of a caption, as the model's tokenizer counts them.
        manifest: where it is noted what was seen, so that a picture is decoded once in its life; None notes nothing.
        progress: show a bar with the time left.

    Returns:
        The pictures to use, with the hash of their bytes, and the findings of every kind; bad pictures are left out
        with a warning. `findings.report` shows them, `findings.raise_errors` stops on errors.

    Raises:
        UserError: a metadata file is not of the right form.
    """
    silence_pillow_on_sizes()
    remarks = Remarks()
    remarks.add_all(_about_settings(datasets))
    with open_manifest(manifest) as opened:
        found = Scanner(datasets, Looker(opened, progress), remarks).scan()
    pictures = found.pictures
    trained = _trained(pictures, datasets, seed)
    for about in (
        _about_looks(found, datasets),
        _about_captions(pictures, datasets, max_token_length, count_tokens),
        about_sizes(pictures, datasets),
        _about_copies(found),
        _about_faces(pictures, datasets),
        _about_regularisation(trained),
        about_tags(pictures, datasets),
        about_counts(trained, datasets),
    ):
        remarks.add_all(about)
    findings = remarks.all()
    return Survey(pictures, made_strict(findings) if strict else findings)


def _trained(pictures: Pictures, datasets: Sequence[Dataset], seed: int) -> Pictures:
    """Without those held out; all of them where that cannot be done, which is told when it is tried in earnest."""
    try:
        return hold_out(pictures, datasets, seed)[0]
    except UserError:
        return pictures


def _about_looks(found: Found, datasets: Sequence[Dataset]) -> Iterator[Finding]:
    """What was seen of the pictures themselves."""
    pictures, records_N = found.pictures, found.records_N
    for place in np.flatnonzero(records_N["animated"]):
        yield Finding("animated", "warning", str(pictures[place].path), "is animated.", "Its first frame is used.")
    for place in np.flatnonzero(records_N["profile_broken"]):
        message = "has a broken colour profile."
        yield Finding("colour profile", "notice", str(pictures[place].path), message, "Its colours are read as sRGB.")
    for place in np.flatnonzero(records_N["true_kind"]):
        message = f"is a {records_N['true_kind'][place].decode()} file by its content, whatever its ending says."
        yield Finding("wrong type", "notice", str(pictures[place].path), message, "It is read as what it is.")
    judged_N = ~pictures.of_subsets("is_reg").astype(bool)
    sides = [nearest_side(math.sqrt(math.prod(dataset.buckets.resolution))) for dataset in datasets]
    sharpness_N = records_N["sharpness"][
        np.arange(len(pictures)), np.array(sides or [0])[pictures.of_subsets("dataset")]
    ]
    empty_N = is_empty(records_N["spread"])
    yield from about_focus(pictures, sharpness_N, judged_N & ~empty_N)
    yield from about_exposure(pictures, records_N["exposure"], judged_N & ~empty_N)
    yield from about_empty(pictures, judged_N & empty_N)
    yield from about_transparency(pictures, records_N["transparent"], records_N["invisible"], datasets)


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
                found = "cache_info has no effect: what was seen of the pictures is always noted."
                yield Finding("setting", "notice", subset.where, found, "Leave it out.")
            try:
                ImageColor.getrgb(subset.images.background_color)
            except ValueError:
                found = f"background_color '{subset.images.background_color}' is not a colour."
                yield Finding("setting", "error", subset.where, found, "Give a name such as white, or #rrggbb.")


def _about_captions(
    pictures: Pictures, datasets: Sequence[Dataset], max_token_length: int, count_tokens: Callable[[str], int]
) -> Iterator[Finding]:
    triggers = {
        subset.trigger_word: whole_word(subset.trigger_word).search
        for dataset in datasets
        for subset in dataset.subsets
    }
    for subset, row in rows_of_subsets(pictures, datasets):
        lines = pictures.caption(row).split("\n")
        remarks: list[tuple[str, Severity, str, str]] = []
        if len(lines) > 1 and not subset.captions.enable_wildcard:
            message = f"the caption has {len(lines)} lines; the first is used."
            remarks.append(("several lines", "notice", message, "With enable_wildcard each is used in turn."))
            lines = lines[:1]
        if subset.trigger_word and lines[0] and subset.teaches:
            has_trigger = triggers[subset.trigger_word]
            if not all(has_trigger(surrounded(line, subset.captions)) for line in lines):
                message = f"the caption does not contain the trigger word '{subset.trigger_word}'."
                remarks.append(("no trigger word", "warning", message, "Add it, or set caption_prefix."))
        tokens = max(_tokens_if_many(line, subset, max_token_length, count_tokens) for line in lines)
        if tokens > max_token_length:
            message = f"the caption has {tokens} tokens, {tokens - max_token_length} more than are read."
            remarks.append(("long caption", "warning", message, _how_to_read(tokens)))
        for kind, severity, message, advice in remarks:
            picture = pictures[row]
            where = str(picture.caption_path or picture.path)
            yield Finding(kind, severity, where, message, advice, str(picture.path))


def _tokens_if_many(line: str, subset: Subset, most: int, count_tokens: Callable[[str], int]) -> int:
    """Tokens of the caption; 0 where they are surely no more than `most`: a token is one byte at least."""
    caption = plain_caption(line, subset.captions)
    may_be_many = len(caption) * 4 > most and len(caption.encode(errors="replace")) > most
    return count_tokens(caption) if may_be_many else 0


def _how_to_read(tokens: int) -> str:
    """What is to be done that so many tokens are read."""
    enough = next((length for length in TOKEN_LENGTHS if length >= tokens), None)
    if enough is None:
        return f"Shorten it: max_token_length is {TOKEN_LENGTHS[-1]} at the most."
    return f"Shorten it, or set max_token_length = {enough}."


def _about_copies(found: Found) -> Iterator[Finding]:
    """Pictures that are the same, or nearly, within one dataset; several may well train the same folder at other sizes."""
    pictures, datasets_N = found.pictures, found.pictures.of_subsets("dataset")
    judged_N = ~pictures.of_subsets("is_reg").astype(bool)
    for dataset in np.unique(datasets_N):
        members = np.flatnonzero(datasets_N == dataset)
        _, first, inverse = np.unique(pictures.contents_N[members], return_index=True, return_inverse=True)
        originals = members[first[inverse]]
        for place in np.flatnonzero(members != originals):
            path, other = pictures[members[place]].path, pictures[originals[place]].path
            copied = f"is a copy of {other}." if path != other else "is in several subsets of a dataset."
            of = str(other) if path != other else ""
            yield Finding("copy", "notice", str(path), copied, "Both train.", other=of)
        compared = members[(members == originals) & judged_N[members]]
        if len(compared) > MOST_COMPARED:
            continue
        bits = np.unpackbits(found.records_N["bits"][compared], axis=1).astype(bool)
        for place, other in zip(compared, earlier_lookalikes(bits)):
            if other is not None:
                of = str(pictures[compared[other]].path)
                advice = "Both train: what they show counts twice."
                path = str(pictures[place].path)
                yield Finding("near copy", "notice", path, f"looks almost like {of}.", advice, other=of)


def _about_faces(pictures: Pictures, datasets: Sequence[Dataset]) -> Iterator[Finding]:
    if not any(subset.images.face_crop_aug_range for dataset in datasets for subset in dataset.subsets):
        return
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


def _about_regularisation(pictures: Pictures) -> Iterator[Finding]:
    """Those of which there are more than of training pictures."""
    for place in np.flatnonzero(balanced_repeats(pictures) == 0):
        found = "is a regularisation picture beyond the number of training pictures (with repeats) of its dataset."
        yield Finding("left out", "notice", str(pictures[place].path), found, LEFT_OUT)
