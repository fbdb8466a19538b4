"""The first look at the data: everything that is wrong with it in one report, before any model is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from library.config.dataset import Dataset
from library.core.runtime import available_cores
from library.data.cache import content_hash
from library.data.captions import mentions
from library.data.findings import Finding, made_strict
from library.data.images import PictureError, check_decodes, decode_mask
from library.data.sources import LEFT_OUT, Picture, Survey, in_threads, scan

FEW_PICTURES = 10

SHORTEST_SIDE = 32

WIDEST_ASPECT = 8.0

MOST_ENLARGED = 2.0


def preflight(datasets: Sequence[Dataset], *, strict: bool = False, max_token_length: int = 75) -> Survey:
    """Find, fully decode and judge every picture and caption.

    Args:
        datasets: the resolved datasets.
        strict: warnings become errors.
        max_token_length: captions that are surely longer are reported.

    Returns:
        The pictures to use, with the hash of their bytes, and the findings of every kind; bad pictures are left out
        with a warning. `findings.report` shows them, `findings.raise_errors` stops on errors.

    Raises:
        UserError: a metadata file is not of the right form.
    """
    scanned = scan(datasets)
    findings = list(scanned.findings)
    pictures = []
    for picture, remarks in in_threads(_read, scanned.pictures, threads=max(2, available_cores())):
        findings += remarks
        if picture is not None:
            pictures.append(picture)
    kept = [picture for picture in pictures if _unusable(picture) is None]
    findings += [reason for picture in pictures if (reason := _unusable(picture)) is not None]
    findings += _about_captions(kept, datasets, max_token_length)
    findings += _about_sizes(kept, datasets)
    findings += _about_copies(kept)
    findings += _about_count(kept, datasets)
    return Survey(kept, made_strict(findings) if strict else findings)


def _read(picture: Picture) -> tuple[Picture | None, list[Finding]]:
    """The picture with its hash, and None where it cannot be decoded."""
    try:
        data = picture.path.read_bytes()
        (width, height), animated = check_decodes(data)
        mask = picture.mask_path.read_bytes() if picture.mask_path is not None else b""
    except (PictureError, OSError) as error:
        return None, [Finding("warning", str(picture.path), str(error), LEFT_OUT)]
    findings = []
    if animated:
        findings.append(Finding("warning", str(picture.path), "is animated.", "Its first frame is used."))
    if mask:
        try:
            decode_mask(mask)
        except PictureError as error:
            findings.append(Finding("error", str(picture.mask_path), f"the mask {error}"))
    mask_content = content_hash(mask) if mask else ""
    checked = replace(picture, width=width, height=height, content=content_hash(data), mask_content=mask_content)
    return checked, findings


def _unusable(picture: Picture) -> Finding | None:
    short, long = sorted(picture.size)
    if short < SHORTEST_SIDE:
        reason = f"is only {picture.width}x{picture.height} pixels; at least {SHORTEST_SIDE} a side are needed."
    elif long / short > WIDEST_ASPECT:
        reason = (
            f"is {picture.width}x{picture.height}, longer than {WIDEST_ASPECT:g}:1; cropping would lose most of it."
        )
    else:
        return None
    return Finding("warning", str(picture.path), reason, LEFT_OUT)


def _about_captions(pictures: Sequence[Picture], datasets: Sequence[Dataset], max_token_length: int) -> list[Finding]:
    findings = []
    for picture in pictures:
        subset = datasets[picture.dataset].subsets[picture.subset]
        text = " ".join(filter(None, (subset.captions.caption_prefix, picture.caption, subset.captions.caption_suffix)))
        where = str(picture.caption_path or picture.path)
        if subset.trigger_word and not picture.is_reg and picture.caption and not mentions(text, subset.trigger_word):
            findings.append(
                Finding(
                    "warning",
                    where,
                    f"the caption does not contain the trigger word '{subset.trigger_word}'.",
                    "Add it, or set caption_prefix.",
                )
            )
        longest = max(fewest_tokens(line) for line in text.split("\n"))
        if longest > max_token_length:
            findings.append(
                Finding(
                    "warning",
                    where,
                    f"the caption has more than {max_token_length} tokens; the rest is cut off.",
                    "Shorten it, or raise max_token_length (75, 150 or 225).",
                )
            )
    return findings


def _about_sizes(pictures: Sequence[Picture], datasets: Sequence[Dataset]) -> list[Finding]:
    findings = []
    for picture in pictures:
        width, height = datasets[picture.dataset].buckets.resolution
        enlarged = (width * height / (picture.width * picture.height)) ** 0.5
        if enlarged > MOST_ENLARGED and not datasets[picture.dataset].buckets.bucket_no_upscale:
            message = f"is small ({picture.width}x{picture.height}) for the resolution {width}x{height}."
            findings.append(Finding("notice", str(picture.path), message, "It is enlarged and will look soft."))
    return findings


def _about_copies(pictures: Sequence[Picture]) -> list[Finding]:
    """Copies of one picture within one dataset; several datasets may well train the same folder at other sizes."""
    first: dict[tuple[int, str], Picture] = {}
    findings = []
    for picture in pictures:
        original = first.setdefault((picture.dataset, picture.content), picture)
        if original.path != picture.path:
            findings.append(Finding("notice", str(picture.path), f"is a copy of {original.path}.", "Both train."))
    return findings


def _about_count(pictures: Sequence[Picture], datasets: Sequence[Dataset]) -> list[Finding]:
    if not any(not subset.is_reg for dataset in datasets for subset in dataset.subsets):
        return [Finding("error", "", "No training data are given.", "Set train_data_dir or dataset_config.")]
    count = len({picture.content for picture in pictures if not picture.is_reg})
    if count == 0:
        return [Finding("error", "", "There is not one picture to train on.")]
    if count < FEW_PICTURES:
        number = "There is one picture" if count == 1 else f"There are {count} different pictures"
        return [Finding("warning", "", f"{number} to train on.", "Advised: 15 for a character, 20 for a style.")]
    return []


def fewest_tokens(caption: str) -> int:
    """CLIP tokens that the caption has at least: its tokenizer never joins words, digits or runs of punctuation."""
    return len(re.findall(r"[^\W\d_]+|\d|(?:[^\w\s]|_)+", caption))
