"""The files of a prepared dataset: pictures, masks and captions, and their places below its folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from library.data.captions.files import decoded
from library.data.checks.findings import Finding, Severity
from library.data.preparing.dataset_file import MASKS
from library.data.preparing.outcome import Outcome
from library.data.preparing.placing import Wanted, copy_of, with_bytes
from library.data.preparing.production import Workshop


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
            text, about = _caption(caption)
            findings += about
            if text is not None:
                wanted[caption_of(each.target, caption)] = with_bytes(text.encode(errors="replace"))
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


def _caption(path: Path) -> tuple[str | None, list[Finding]]:
    """Its text, None where it cannot be read."""
    try:
        text, encoding = decoded(path.read_bytes())
    except OSError as error:
        message = f"cannot be read ({error.strerror or error})."
        return None, [Finding("unreadable", "warning", str(path), message, "It is not copied.")]
    if not encoding:
        return text, []
    severity: Severity = "notice" if encoding == "UTF-16" else "warning"  # the other is a guess
    return text, [Finding("encoding", severity, str(path), f"is read as {encoding}.", "It is written as UTF-8.")]
