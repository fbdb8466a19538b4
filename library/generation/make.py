"""Making the pictures of a sheet: those that are there with the same settings stay, the others are made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from library.core.disk import check_room
from library.core.errors import UserError
from library.core.files import write_atomically
from library.core.wording import how_many
from library.generation.folder import GeneratedFolder
from library.generation.plan import Canvas, plan
from library.generation.record import Entry, Record, entry_of, write_record
from library.generation.sheet import CharacterSheet
from library.inference.requests import SampleRequest

Paint = Callable[[Sequence[SampleRequest]], Sequence[Image.Image]]
"""One picture a request."""

SHOWN_CHANGES = 6


@dataclass(frozen=True)
class Work:
    """What is to be done in a folder."""

    folder: GeneratedFolder
    record: Record
    """As it will be once everything is made."""
    unwanted: Sequence[Entry]
    """Pictures that another attempt takes the place of."""
    outdated: Sequence[Entry]
    """Pictures that were made otherwise, and go."""
    renamed: Sequence[Entry]
    """Pictures that stay and get another caption."""
    missing: Sequence[Entry]
    """To be made."""


def settle(
    root: Path,
    sheet: CharacterSheet,
    count: int,
    canvas: Canvas,
    model: Mapping[str, Any],
    former: Record | None,
    again: Collection[int],
    overwrite: bool,
) -> Work:
    """What there is to make, when `count` pictures are wanted.

    Args:
        model: `options` that chose it, and its `identity`.
        former: what is there already; pictures beyond `count` stay as they are.
        again: numbers to be made anew, from other seeds.
        overwrite: make anew what was made otherwise.

    Raises:
        UserError: what is there was made otherwise, and that is not to be overwritten.
    """
    old = former.entries if former else {}
    attempts = {number: entry.attempt + (number in again) for number, entry in old.items()}
    pictures = plan(sheet, max([count, *old]), attempts)
    new = {picture.number: entry_of(picture, picture.request(sheet, canvas)) for picture in pictures}
    folder = GeneratedFolder(root, root / sheet.folder_name)
    there = {n: entry for n, entry in old.items() if n not in again and folder.state(entry) != "missing"}
    changes = _model_changes(former, model) if there else []
    outdated = [entry for n, entry in there.items() if changes or entry.request != new[n].request]
    gone = {entry.number for entry in outdated}
    renamed = [
        new[n]
        for n, entry in there.items()
        if n not in gone and entry.caption != new[n].caption and folder.state(entry) == "made"
    ]
    if (outdated or renamed) and not overwrite:
        told = [*changes, *_request_changes(there, new), *_caption_changes(there, renamed)]
        shown = "\n".join(f"  {line}" for line in told[:SHOWN_CHANGES])
        more = f"\n  and {len(told) - SHOWN_CHANGES} more" if len(told) > SHOWN_CHANGES else ""
        weeded = sum(folder.state(entry) == "rejected" for entry in outdated)
        among = f", {weeded} that {'was' if weeded == 1 else 'were'} weeded out among them," if weeded else ""
        raise UserError(
            f"{root} holds pictures that were made otherwise:\n{shown}{more}\n--overwrite makes {how_many(len(outdated), 'picture')} "
            f"anew{among} and writes {how_many(len(renamed), 'caption')} anew; --out with another folder leaves them as they are."
        )
    missing = [
        entry
        for n, entry in new.items()
        if n in gone or (n <= count and folder.state(entry) == "missing") or (n in again and n in old)
    ]
    record = Record(sheet.name, sheet.trigger, sheet.folder_name, sheet.table, model, new)
    unwanted = [old[n] for n in sorted(again) if n in old and folder.state(old[n]) == "made"]
    return Work(folder, record, unwanted, outdated, renamed, missing)


def make(work: Work, paint: Paint, batches: Callable[[Sequence[Entry]], Iterable[Sequence[Entry]]]) -> None:
    """Make what is missing. Who interrupts it, and starts it anew, has it go on.

    Args:
        batches: what is to be painted, in the batches in which to paint it.

    Raises:
        UserError: the disk is full, or nothing can be written.
    """
    check_room(work.folder.root, sum(3 * entry.request.width * entry.request.height for entry in work.missing))
    for entry in work.unwanted:
        work.folder.reject(entry)
    for entry in work.outdated:
        work.folder.remove(entry)
    write_record(work.folder.root, work.record)
    for entry in work.renamed:
        _write_caption(work.folder, entry)
    for batch in batches(work.missing):
        for entry, picture in zip(batch, paint([entry.request for entry in batch]), strict=True):
            _write_caption(work.folder, entry)  # before the picture, whose presence says that all is done
            _write_picture(work.folder.picture(entry), picture, parameters(entry.request, work.record.model))


def parameters(request: SampleRequest, model: Mapping[str, Any]) -> str:
    """What a picture was made with, in the form that A1111 writes into its PNG files and others read."""
    options = model["options"]
    settings = {
        "Steps": request.steps,
        "Sampler": request.sampler,
        "CFG scale": f"{request.scale:g}",
        "Seed": request.seed,
        "Size": f"{request.width}x{request.height}",
        "Model": Path(str(options["pretrained_model_name_or_path"])).name,
    }
    if options.get("clip_skip"):
        settings["Clip skip"] = options["clip_skip"]
    if options.get("lora"):
        settings["Lora"] = " ".join(Path(lora).name for lora in options["lora"])
    negative = f"\nNegative prompt: {request.negative_prompt}" if request.negative_prompt else ""
    return f"{request.prompt}{negative}\n{', '.join(f'{key}: {value}' for key, value in settings.items())}"


def _write_caption(folder: GeneratedFolder, entry: Entry) -> None:
    path = folder.picture(entry).with_suffix(".txt")
    write_atomically(path, lambda temporary: temporary.write_text(f"{entry.caption}\n", encoding="utf-8", newline="\n"))


def _write_picture(path: Path, picture: Image.Image, text: str) -> None:
    written = PngInfo()
    written.add_itxt("parameters", text) if not text.isascii() else written.add_text("parameters", text)
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG", pnginfo=written))


def _model_changes(former: Record | None, model: Mapping[str, Any]) -> list[str]:
    before, now = former.model["identity"] if former else {}, model["identity"]
    changed = [key for key in now if before.get(key) != now[key]]
    return [f"another {WORDS[key]}" if key in WORDS else f"{key}: {before.get(key)}, now {now[key]}" for key in changed]


WORDS = {
    "unet": "model (its UNet)",
    "vae": "VAE",
    "text_encoders": "text encoder, or reading of prompts",
    "loras": "choice of LoRAs",
}
"""What is told by a hash, in words."""


def _request_changes(there: Mapping[int, Entry], new: Mapping[int, Entry]) -> list[str]:
    """A line for each thing that has changed, with the first picture of which it has."""
    told = []
    for name in (field.name for field in fields(SampleRequest)):
        changed = [n for n, entry in there.items() if getattr(entry.request, name) != getattr(new[n].request, name)]
        if changed:
            first = changed[0]
            before, now = getattr(there[first].request, name), getattr(new[first].request, name)
            told.append(
                f"{name} of {how_many(len(changed), 'picture')}; of number {first} it was '{before}', and is now '{now}'"
            )
    return told


def _caption_changes(there: Mapping[int, Entry], renamed: Sequence[Entry]) -> list[str]:
    if not renamed:
        return []
    first = renamed[0]
    before = there[first.number].caption
    return [
        f"caption of {how_many(len(renamed), 'picture')}; of number {first.number} it was '{before}', and is now '{first.caption}'"
    ]
