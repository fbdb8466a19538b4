"""Which pictures stand on the contact sheet, in which order, and how each is shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageDraw

from library.config.dataset import Dataset, Subset
from library.data.checks.findings import SEVERITIES, Finding
from library.data.index.pictures import Picture, Pictures
from library.data.pictures.buckets import Size, bucket_sizes, training_size
from library.data.pictures.images import PictureError, thumbnail
from library.data.pictures.placement import centred

TEXTS = (".txt", ".caption", ".json", ".jsonl", ".toml")
"""Endings of files that findings may be about and that are no pictures."""

FADED = 0.35
"""What is left of the colours of what is cut away."""

OUTLINE = (255, 255, 255), (30, 30, 30)
"""Around the crop: light beside dark is seen before anything."""


@dataclass(frozen=True)
class Card:
    """One picture of the sheet."""

    path: Path
    findings: list[Finding]
    """The gravest first."""
    picture: Picture | None = None
    """None where it is left out of the training."""
    subset: Subset | None = None
    target: Size | None = None
    """Size at which it is trained."""


def cards(pictures: Pictures, datasets: Sequence[Dataset], findings: Sequence[Finding], most: int) -> list[Card]:
    """Pictures with problems first, the gravest before all, copies beside each other; then the others in their order."""
    faulty = dict(list(_in_order(_by_path(findings)))[:most])
    sizes = [bucket_sizes(dataset.buckets) for dataset in datasets]
    found: dict[str, Card] = {}
    good: dict[str, Card] = {}
    room = most - len(faulty)
    for picture in pictures:
        path = str(picture.path)
        if path in faulty:
            found.setdefault(path, _card(picture, faulty[path], datasets, sizes))
        elif len(good) < room:
            good.setdefault(path, _card(picture, [], datasets, sizes))
        elif len(found) == len(faulty):
            break
    return [found.get(path) or Card(Path(path), about) for path, about in faulty.items()] + list(good.values())


def shown(card: Card, side: int) -> Image.Image:
    """The picture within a square of that side, enlarged where it is small; what training cuts away is faded, the rest outlined.

    Raises:
        PictureError: it cannot be decoded.
    """
    try:
        data = card.path.read_bytes()
    except OSError as error:
        raise PictureError(f"cannot be read ({error.strerror or error}).") from error
    image = thumbnail(data, 2 * side, card.subset.images.background_color if card.subset else "white")
    scale = side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    image = image.resize(size, Image.Resampling.LANCZOS)
    kept = _kept(card)
    return image if kept is None else _outlined(image, kept)


def _by_path(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """What was found about each picture, gravest first; what is about folders and settings is left out."""
    by_path: dict[str, list[Finding]] = {}
    both = [*findings, *(_from_the_other_side(finding) for finding in findings if finding.other)]
    for each in sorted(both, key=lambda finding: SEVERITIES.index(finding.severity)):
        path = each.picture or each.path
        if path in by_path or _is_picture(path):
            by_path.setdefault(path, []).append(each)
    return by_path


def _from_the_other_side(of: Finding) -> Finding:
    """What is to be said of a copy's original, so that both are marked."""
    message = of.message.replace(of.other, of.path)
    if message == of.message:
        message = message.replace(Path(of.other).name, Path(of.path).name)
    return replace(of, path=of.other, other=of.path, message=message)


def _in_order(by_path: Mapping[str, list[Finding]]) -> Iterator[tuple[str, list[Finding]]]:
    """The gravest first, and after each what it is a copy of or has as copies."""
    seen: set[str] = set()
    for path, found in sorted(by_path.items(), key=lambda item: _gravity(item[1])):
        for near in (path, *(each.other for each in found if each.other)):
            if near in by_path and near not in seen:
                seen.add(near)
                yield near, by_path[near]


def _is_picture(path: str) -> bool:
    try:
        return bool(path) and not path.lower().endswith(TEXTS) and Path(path).is_file()
    except OSError:  # a name of thousands of characters, say
        return False


def _gravity(findings: Sequence[Finding]) -> tuple[int, int]:
    return SEVERITIES.index(findings[0].severity), -len(findings)


def _card(picture: Picture, findings: list[Finding], datasets: Sequence[Dataset], sizes: Sequence[list[Size]]) -> Card:
    buckets = datasets[picture.dataset].buckets
    possible = sizes[picture.dataset] or buckets.bucket_no_upscale
    target = training_size(picture.size, buckets, sizes[picture.dataset]) if possible else None
    return Card(picture.path, findings, picture, datasets[picture.dataset].subsets[picture.subset], target)


def _kept(card: Card) -> tuple[float, float, float, float] | None:
    """What training keeps, as shares of width and height; None where that is all of it, or is drawn anew each time."""
    if card.picture is None or card.target is None or card.subset is None:
        return None
    if card.subset.images.random_crop or card.subset.images.face_crop_aug_range:
        return None
    placement = centred(card.picture.size, card.target)
    (width, height), (left, top, right, bottom) = placement.resized, placement.box
    kept = left / width, top / height, right / width, bottom / height
    return kept if kept != (0, 0, 1, 1) else None


def _outlined(image: Image.Image, kept: tuple[float, float, float, float]) -> Image.Image:
    box = _in_pixels(kept, image.size)
    faded = Image.blend(Image.new("RGB", image.size, "white"), image, FADED)
    faded.paste(image.crop(box), box[:2])
    draw = ImageDraw.Draw(faded)
    for inset, colour in enumerate(OUTLINE):
        edges = (box[0] + inset, box[1] + inset, box[2] - 1 - inset, box[3] - 1 - inset)
        if edges[2] > edges[0] and edges[3] > edges[1]:
            draw.rectangle(edges, outline=colour)
    return faded


def _in_pixels(shares: tuple[float, float, float, float], size: Size) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(share * size[axis % 2]) for axis, share in enumerate(shares))
    return left, top, max(left + 1, right), max(top + 1, bottom)


def chunks(items: Sequence[Card], size: int) -> Iterator[Sequence[Card]]:
    """The cards of each page."""
    return (items[start : start + size] for start in range(0, len(items), size))
