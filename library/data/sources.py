"""Finding the pictures of a run, their captions, masks and sizes. Only file headers are read here."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from library.config.dataset import IMAGE_EXTENSIONS, Dataset, Subset
from library.data.buckets import Size
from library.data.caption_files import metadata_caption, read_caption, read_metadata
from library.data.findings import Finding
from library.data.images import PictureError, picture_size

UNREAD_EXTENSIONS = frozenset(
    {".heic", ".heif", ".jxl", ".psd", ".svg", ".cr2", ".nef", ".dng", ".exr", ".jp2", ".jfif"}
)
"""Endings of pictures that are not read, so that leaving them out is said."""

CAPTION_EXTENSIONS = (".caption", ".txt")

LEFT_OUT = "It is left out."


@dataclass(frozen=True)
class Picture:
    """One picture of a subset, as the run sees it."""

    path: Path
    width: int
    """Of the upright picture: its EXIF orientation is applied."""
    height: int
    caption: str
    """As written; several lines are alternatives."""
    dataset: int
    subset: int
    """Index within its dataset."""
    is_reg: bool
    repeats: int
    caption_path: Path | None = None
    """None where the caption comes from class_tokens or metadata, or is missing."""
    mask_path: Path | None = None
    content: str = ""
    """Hash of the file's bytes, once they have been read."""
    mask_content: str = ""

    @property
    def size(self) -> Size:
        """(width, height)."""
        return self.width, self.height


@dataclass(frozen=True)
class Survey:
    """What a look at the data gave."""

    pictures: list[Picture]
    findings: list[Finding]


def scan(datasets: Sequence[Dataset]) -> Survey:
    """Every picture of the datasets in a fixed order, with what was noticed on the way.

    Pictures whose header cannot be read are left out and reported. Nothing is decoded.

    Raises:
        UserError: a metadata file is not of the right form.
    """
    return merged(
        _scan_subset(subset, (number, index), earlier=dataset.subsets[:index])
        for number, dataset in enumerate(datasets)
        for index, subset in enumerate(dataset.subsets)
    )


def merged(surveys: Iterable[Survey]) -> Survey:
    """Several surveys as one."""
    surveys = list(surveys)
    return Survey(
        [p for survey in surveys for p in survey.pictures], [f for survey in surveys for f in survey.findings]
    )


def in_threads(task: Callable[[Any], Any], items: Sequence[Any], threads: int = 8) -> list[Any]:
    """The task done on every item, in order; decoding, hashing and reading files leave Python's lock."""
    with ThreadPoolExecutor(max_workers=threads) as pool:
        return list(pool.map(task, items))


def _scan_subset(subset: Subset, place: tuple[int, int], earlier: Sequence[Subset]) -> Survey:
    where = str(subset.metadata_file or subset.image_dir)
    if subset.num_repeats < 1:
        return _nothing("warning", where, f"num_repeats is {subset.num_repeats}.", "The subset is left out.")
    if any((other.image_dir, other.metadata_file) == (subset.image_dir, subset.metadata_file) for other in earlier):
        return _nothing("warning", where, "is given twice in one dataset.", "The first is used; set its num_repeats.")
    found = _from_metadata(subset, place) if subset.metadata_file is not None else _from_folder(subset, place)
    masked = _with_masks(found.pictures, subset)
    sized = _with_sizes(masked.pictures)
    return Survey(sized.pictures, [*found.findings, *masked.findings, *sized.findings])


def _from_folder(subset: Subset, place: tuple[int, int]) -> Survey:
    folder = subset.image_dir
    if folder is None or not folder.is_dir():
        return _nothing("error", str(folder), "there is no such folder.", _nearby(folder))
    files = _files(folder)
    paths = [path for path in files if path.suffix.lower() in IMAGE_EXTENSIONS]
    findings = _about_folder(folder, files, paths)
    captions = _by_stem(files, _caption_extensions(subset))
    pictures = []
    for path in paths:
        picture, remarks = _captioned(path, captions, subset, place)
        pictures.append(picture)
        findings += remarks
    return Survey(pictures, findings)


def _captioned(
    path: Path, captions: dict[str, Path], subset: Subset, place: tuple[int, int]
) -> tuple[Picture, list[Finding]]:
    blank = _picture(path, subset.class_tokens or "", subset, place)
    caption_path = captions.get(_stem(path)) or captions.get(_without_face(_stem(path)))
    if caption_path is None:
        return blank, [] if blank.caption else [
            Finding("warning", str(path), "has no caption.", "It trains with an empty one.")
        ]
    caption, encoding = read_caption(caption_path)
    findings = []
    if encoding:
        findings.append(
            Finding("notice", str(caption_path), f"is not UTF-8; read as {encoding}.", "Save it as UTF-8 to be sure.")
        )
    if not caption:
        advice = "class_tokens stand in." if blank.caption else "Its picture trains with an empty caption."
        findings.append(Finding("warning", str(caption_path), "is an empty caption file.", advice))
    return replace(blank, caption=caption or blank.caption, caption_path=caption_path), findings


def _from_metadata(subset: Subset, place: tuple[int, int]) -> Survey:
    assert subset.metadata_file is not None
    pictures, findings = [], []
    root = subset.image_dir or subset.metadata_file.parent
    listed = _by_stem(_files(root), tuple(IMAGE_EXTENSIONS)) if root.is_dir() else {}
    for name, entry in read_metadata(subset.metadata_file).items():
        path = _named_picture(name, root, listed)
        if path is None:
            findings.append(
                Finding("warning", name, f"is named in {subset.metadata_file} but not found under {root}.", LEFT_OUT)
            )
            continue
        picture = _picture(path, metadata_caption(entry, subset.captions.caption_separator), subset, place)
        if not picture.caption:
            findings.append(Finding("warning", str(path), "has no caption.", "It trains with an empty one."))
        pictures.append(picture)
    if not pictures:
        findings.append(Finding("error", str(subset.metadata_file), "names no picture that can be found."))
    return Survey(sorted(pictures, key=lambda picture: str(picture.path)), findings)


def _named_picture(name: str, root: Path, listed: dict[str, Path]) -> Path | None:
    """A metadata key is a path, a path below image_dir, or either without its extension."""
    for path in (Path(name), root / name):
        if path.suffix.lower() in IMAGE_EXTENSIONS and path.is_file():
            return path
    if (in_folder := listed.get(unicodedata.normalize("NFC", name).lower())) is not None:
        return in_folder
    for path in (Path(name), root / name):
        for extension in sorted(IMAGE_EXTENSIONS):
            if (candidate := path.with_name(path.name + extension)).is_file():
                return candidate
    return None


def _picture(path: Path, caption: str, subset: Subset, place: tuple[int, int]) -> Picture:
    return Picture(path, 0, 0, caption, *place, subset.is_reg, subset.num_repeats)


def _with_masks(pictures: Sequence[Picture], subset: Subset) -> Survey:
    if subset.images.conditioning_data_dir is None:
        return Survey(list(pictures), [])
    folder = Path(subset.images.conditioning_data_dir)
    if not folder.is_dir():
        return _nothing("error", str(folder), "conditioning_data_dir: there is no such folder.", _nearby(folder))
    masks = _by_stem(_files(folder), tuple(IMAGE_EXTENSIONS))
    masked = [replace(picture, mask_path=masks.get(_stem(picture.path))) for picture in pictures]
    return Survey(
        masked,
        [
            Finding(
                "error", str(picture.path), f"has no mask in {folder}.", "Give it a picture of the same name there."
            )
            for picture in masked
            if picture.mask_path is None
        ],
    )


def _with_sizes(pictures: Sequence[Picture]) -> Survey:
    sized, findings = [], []
    for picture, size in zip(pictures, in_threads(_size_or_reason, [picture.path for picture in pictures])):
        if isinstance(size, str):
            findings.append(Finding("warning", str(picture.path), size, LEFT_OUT))
        else:
            sized.append(replace(picture, width=size[0], height=size[1]))
    return Survey(sized, findings)


def _size_or_reason(path: Path) -> Size | str:
    try:
        return picture_size(path)
    except PictureError as error:
        return str(error)


def _about_folder(folder: Path, files: Sequence[Path], paths: Sequence[Path]) -> list[Finding]:
    unread = [path for path in files if path.suffix.lower() in UNREAD_EXTENSIONS]
    findings = [
        Finding("warning", str(path), f"is a {path.suffix} picture, which is not read.", "Convert it to PNG or JPEG.")
        for path in unread
    ]
    stems: dict[str, Path] = {}
    for path in paths:
        first = stems.setdefault(_stem(path), path)
        if first is not path:
            findings.append(Finding("notice", str(path), f"has the same name as {first.name}.", "Both train."))
    below = [path.name for path in sorted(folder.iterdir()) if path.is_dir() and _holds_pictures(path)]
    if not paths:
        advice = f"Pictures are in {', '.join(below[:3])}: name that folder." if below else "Is it the right folder?"
        findings.append(Finding("error", str(folder), "holds no pictures.", advice))
    elif below:
        findings.append(
            Finding("notice", str(folder), f"pictures of its subfolders ({', '.join(below[:3])}) are not used.")
        )
    return findings


def _files(folder: Path) -> list[Path]:
    """The folder's own files by name; hidden ones (such as macOS's `._photo.jpg`) are none of ours."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())


def _holds_pictures(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_EXTENSIONS for path in folder.iterdir())


def _caption_extensions(subset: Subset) -> tuple[str, ...]:
    extension = subset.captions.caption_extension
    if extension is None:
        return CAPTION_EXTENSIONS
    return (extension.lower() if extension.startswith(".") else f".{extension.lower()}",)


def _by_stem(files: Sequence[Path], extensions: Sequence[str]) -> dict[str, Path]:
    """Files of these extensions by their name; an earlier extension wins."""
    found: dict[str, Path] = {}
    for extension in extensions:
        for path in files:
            if path.name.lower().endswith(extension):
                found.setdefault(_stem(path.with_name(path.name[: -len(extension)] + ".x")), path)
    return found


def _stem(path: Path) -> str:
    """The name by which a picture and its caption find each other, whatever the case or the system's way with accents."""
    return unicodedata.normalize("NFC", path.stem).lower()


def _without_face(stem: str) -> str:
    """`anna_320_180_96_110` without its face."""
    parts = stem.split("_")
    return "_".join(parts[:-4]) if len(parts) >= 5 else stem


def _nearby(folder: Path | None) -> str:
    """What the folder's neighbours suggest."""
    if folder is None or not folder.parent.is_dir():
        return "Check the path."
    near = difflib.get_close_matches(folder.name, [path.name for path in folder.parent.iterdir() if path.is_dir()], n=1)
    return f"Did you mean '{near[0]}'?" if near else "Check the path."


def _nothing(severity: Any, path: str, message: str, advice: str) -> Survey:
    return Survey([], [Finding(severity, path, message, advice)])
