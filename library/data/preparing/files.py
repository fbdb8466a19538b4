"""The files of a prepared dataset: pictures, masks and captions, and their places below its folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from library.data.captions.files import GUESSED, decoded, is_whole
from library.data.checks.findings import Finding
from library.data.preparing.dataset_file import MASKS
from library.data.preparing.outcome import Outcome
from library.data.preparing.placing import Wanted, copy_of, with_bytes
from library.data.preparing.production import Workshop

SAVE_AS_UTF8 = "`dojo dataset caption FOLDER --encoding NAME --to_utf8 --apply` mends it, where you know its encoding."


def files_of(outcomes: Iterable[Outcome], workshop: Workshop) -> tuple[dict[str, Wanted], list[Finding]]:
    """Every picture, mask and caption that is wanted by its path below the folder, and what is to be said of the captions."""
    wanted: dict[str, Wanted] = {}
    findings: list[Finding] = []
    for each in outcomes:
        if not each.part:
            continue
        key, made = each.record.key, each.made
        wanted[each.target] = copy_of(workshop.picture(key), made.content)
        if made.mask_content:
            wanted[mask_of(each.target)] = copy_of(workshop.mask(key), made.mask_content)
        for caption in each.original.captions:
            data, about = _caption(caption)
            findings += about
            if data is not None:
                wanted[caption_of(each.target, caption)] = with_bytes(data)
        if not each.original.captions:
            findings.append(Finding("no caption", "notice", str(each.original.path), "has no caption file."))
    return wanted, findings


def target_of(outcome: Outcome, part: str, ending: str) -> str:
    """Where a picture lies; the numbers of a face are those of the made picture."""
    numbers = "".join(f"_{number}" for number in outcome.made.face or ())
    return (part / outcome.original.folder / f"{outcome.original.stem}{numbers}.{ending}").as_posix()


def mask_of(target: str) -> str:
    """Where the mask of a picture lies."""
    return (MASKS / PurePosixPath(target)).with_suffix(".png").as_posix()


def caption_of(target: str, caption: Path) -> str:
    """Where a caption of a picture lies."""
    return PurePosixPath(target).with_suffix(caption.suffix.lower()).as_posix()


def _caption(path: Path) -> tuple[bytes | None, list[Finding]]:
    """It in UTF-8, as it is where its encoding is a guess; None where it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        message = f"cannot be read ({error.strerror or error})."
        return None, [Finding("unreadable", "warning", str(path), message, "It is not copied.")]
    text, encoding = decoded(data)
    if encoding == GUESSED:
        message = "is no UTF-8, and what it is can only be guessed."
        return data, [Finding("encoding", "warning", str(path), message, f"It is copied as it is. {SAVE_AS_UTF8}")]
    if not is_whole(text, encoding):
        message = f"holds bytes that are no text in {encoding}."
        return data, [Finding("encoding", "warning", str(path), message, f"It is copied as it is. {SAVE_AS_UTF8}")]
    if not encoding:
        return text.encode(), []
    message = f"is read as {encoding}."
    return text.encode(), [Finding("encoding", "notice", str(path), message, "It is written as UTF-8.")]
