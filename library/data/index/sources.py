"""Finding the pictures of a run, their captions, masks and sizes. Only file headers are read here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from library.config.dataset import IMAGE_EXTENSIONS, Dataset, Subset
from library.data.captions.files import metadata_caption, read_caption, read_metadata
from library.data.checks.findings import Finding, Severity
from library.data.index.siblings import Siblings, subfolders, suggestion, visible_files
from library.data.pictures.buckets import Size
from library.data.pictures.images import PictureError, picture_size

T = TypeVar("T")
R = TypeVar("R")

UNREAD_EXTENSIONS = frozenset(
    {".heic", ".heif", ".jxl", ".psd", ".svg", ".cr2", ".nef", ".dng", ".exr", ".jp2", ".jfif"}
)
"""Endings of pictures that are not read, so that leaving them out is said."""

CAPTION_EXTENSIONS = (".caption", ".txt")

LEFT_OUT = "It is left out."

EMPTY_CAPTION = "It trains with an empty caption."


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


@dataclass(frozen=True)
class _Source:
    """A subset and where it stands."""

    subset: Subset
    dataset: int
    index: int
    too_small: int = 0
    """Area in pixels; pictures that have no more are left out."""

    def picture(self, path: Path, caption: str, caption_path: Path | None = None) -> Picture:
        """A picture of the subset whose size is not known yet."""
        subset = self.subset
        return Picture(path, 0, 0, caption, self.dataset, self.index, subset.is_reg, subset.num_repeats, caption_path)


def scan(datasets: Sequence[Dataset]) -> Survey:
    """Every picture of the datasets in a fixed order, with what was noticed on the way.

    Pictures whose header cannot be read are left out and reported. Nothing is decoded.

    Raises:
        UserError: a metadata file is not of the right form.
    """
    subsets = [subset for dataset in datasets for subset in dataset.subsets]
    folders = {subset.image_dir for subset in subsets if subset.image_dir is not None}
    folders |= {Path(subset.images.conditioning_data_dir) for subset in subsets if subset.images.conditioning_data_dir}
    return merged(
        _scan(_Source(subset, number, index, _skipped_area(dataset)), dataset.subsets[:index], folders)
        for number, dataset in enumerate(datasets)
        for index, subset in enumerate(dataset.subsets)
    )


def merged(surveys: Iterable[Survey]) -> Survey:
    """Several surveys as one."""
    surveys = list(surveys)
    return Survey(
        [p for survey in surveys for p in survey.pictures], [f for survey in surveys for f in survey.findings]
    )


def in_threads(task: Callable[[T], R], items: Sequence[T], threads: int = 8, progress: str = "") -> list[R]:
    """The task done on every item, in order; reading, hashing and decoding files run beside one another.

    Args:
        progress: title of a progress bar; "" shows none.
    """
    with ThreadPoolExecutor(max_workers=threads) as pool:
        return list(tqdm(pool.map(task, items), progress, len(items), unit="picture", disable=not progress))


def _scan(source: _Source, earlier: Sequence[Subset], folders: set[Path]) -> Survey:
    subset = source.subset
    where = str(subset.metadata_file or subset.image_dir)
    if subset.num_repeats < 1:
        return _nothing(
            Finding("setting", "warning", where, f"num_repeats is {subset.num_repeats}.", "The subset is left out.")
        )
    if any((other.image_dir, other.metadata_file) == (subset.image_dir, subset.metadata_file) for other in earlier):
        return _nothing(
            Finding(
                "setting",
                "warning",
                where,
                "is given twice in one dataset.",
                "The first is used; raise its num_repeats.",
            )
        )
    try:
        found = _from_metadata(source) if subset.metadata_file is not None else _from_folder(source, folders)
        masked = _with_masks(found.pictures, subset)
    except OSError as error:
        return _nothing(
            Finding("unreadable", "error", str(error.filename or where), f"cannot be read ({error.strerror or error}).")
        )
    sized = _with_sizes(masked.pictures)
    large = _without_small(sized.pictures, source.too_small, where)
    return Survey(large.pictures, [*found.findings, *masked.findings, *sized.findings, *large.findings])


def _skipped_area(dataset: Dataset) -> int:
    width, height = dataset.buckets.skip_image_resolution or (0, 0)
    return width * height


def _without_small(pictures: Sequence[Picture], area: int, where: str) -> Survey:
    large = [picture for picture in pictures if picture.width * picture.height > area]
    if len(large) == len(pictures):
        return Survey(large, [])
    message = (
        f"{len(pictures) - len(large)} of {len(pictures)} pictures are left out, not being above skip_image_resolution."
    )
    return Survey(large, [Finding("left out", "notice", where, message)])


def _from_folder(source: _Source, folders: set[Path]) -> Survey:
    folder = source.subset.image_dir
    assert folder is not None
    if not folder.is_dir():
        return _nothing(Finding("no folder", "error", str(folder), "there is no such folder.", suggestion(folder)))
    files = visible_files(folder)
    paths = [path for path in files if path.suffix.lower() in IMAGE_EXTENSIONS]
    captions = Siblings(files, _caption_extensions(source.subset))
    surveys = [_captioned(path, captions.caption_of(path), source) for path in paths]
    about = [*_about_files(files, paths), *_about_subfolders(folder, bool(paths), folders)]
    if paths:
        about += _about_captions(source.subset, files, captions)
    return merged([Survey([], about), *surveys])


def _captioned(path: Path, caption_path: Path | None, source: _Source) -> Survey:
    tokens = source.subset.class_tokens or ""
    if caption_path is None:
        found = Finding("no caption", "notice", str(path), "has no caption file.", f"'{tokens}' is its caption.")
        missing = Finding("no caption", "warning", str(path), "has no caption.", EMPTY_CAPTION)
        return Survey([source.picture(path, tokens)], [found if tokens else missing])
    caption, encoding = read_caption(caption_path)
    findings = []
    if encoding:
        message, advice = f"is not UTF-8; it is read as {encoding}.", "Save it as UTF-8 to be sure."
        severity: Severity = "notice" if encoding == "UTF-16" else "warning"  # the other is a guess
        findings.append(Finding("encoding", severity, str(caption_path), message, advice))
    if not caption:
        advice = f"'{tokens}' is its picture's caption." if tokens else "Its picture trains with an empty caption."
        findings.append(Finding("empty caption", "warning", str(caption_path), "is empty.", advice))
    return Survey([source.picture(path, caption or tokens, caption_path)], findings)


def _from_metadata(source: _Source) -> Survey:
    subset = source.subset
    assert subset.metadata_file is not None
    root = subset.image_dir or subset.metadata_file.parent
    listed = Siblings(visible_files(root) if root.is_dir() else [], sorted(IMAGE_EXTENSIONS))
    pictures, findings = [], []
    for name, entry in read_metadata(subset.metadata_file).items():
        path = _named_picture(name, root, listed)
        if path is None:
            message = f"is named in {subset.metadata_file} but not found in {root}."
            findings.append(Finding("not found", "warning", name, message, LEFT_OUT))
            continue
        pictures.append(source.picture(path, metadata_caption(entry, subset.captions.caption_separator)))
        if not pictures[-1].caption:
            findings.append(Finding("no caption", "warning", str(path), "has no caption.", EMPTY_CAPTION))
    if not pictures:
        findings.append(Finding("not found", "error", str(subset.metadata_file), "names no picture that can be found."))
    return Survey(sorted(pictures, key=lambda picture: str(picture.path)), findings)


def _named_picture(name: str, root: Path, listed: Siblings) -> Path | None:
    """A metadata key is a path, a path below image_dir, or either without its extension."""
    candidates = [Path(name), root / name]
    for path in candidates:
        if path.suffix.lower() in IMAGE_EXTENSIONS and _is_file(path):
            return path
    endings = [path.parent / (path.name + extension) for path in candidates for extension in sorted(IMAGE_EXTENSIONS)]
    return listed.find(name) or next((path for path in endings if _is_file(path)), None)


def _is_file(path: Path) -> bool:
    """Whether it is a file; what the system cannot look up, a name of thousands of characters say, is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def _with_masks(pictures: Sequence[Picture], subset: Subset) -> Survey:
    if subset.images.conditioning_data_dir is None:
        return Survey(list(pictures), [])
    folder = Path(subset.images.conditioning_data_dir)
    if not folder.is_dir():
        message = "conditioning_data_dir: there is no such folder."
        return Survey(list(pictures), [Finding("no folder", "error", str(folder), message, suggestion(folder))])
    masks = Siblings(visible_files(folder), sorted(IMAGE_EXTENSIONS))
    masked = [replace(picture, mask_path=masks.find(picture.path.stem)) for picture in pictures]
    missing = [
        Finding(
            "no mask", "error", str(picture.path), f"has no mask in {folder}.", "Put a picture of the same name there."
        )
        for picture in masked
        if picture.mask_path is None
    ]
    return Survey(masked, missing)


def _with_sizes(pictures: Sequence[Picture]) -> Survey:
    sized, findings = [], []
    for picture, size in zip(pictures, in_threads(_size_or_reason, [picture.path for picture in pictures])):
        if isinstance(size, str):
            findings.append(Finding("unreadable", "warning", str(picture.path), size, LEFT_OUT))
        else:
            sized.append(replace(picture, width=size[0], height=size[1]))
    return Survey(sized, findings)


def _size_or_reason(path: Path) -> Size | str:
    try:
        return picture_size(path)
    except PictureError as error:
        return str(error)


def _about_files(files: Sequence[Path], paths: Sequence[Path]) -> list[Finding]:
    findings = [
        Finding(
            "not read",
            "warning",
            str(path),
            f"is a {path.suffix} file, which is not read.",
            "Convert it to PNG or JPEG.",
        )
        for path in files
        if path.suffix.lower() in UNREAD_EXTENSIONS
    ]
    first: dict[str, Path] = {}
    for path in paths:
        other = first.setdefault(path.stem, path)
        if other is not path:
            findings.append(
                Finding("same name", "notice", str(path), f"has the same name as {other.name}.", "Both train.")
            )
    return findings


def _about_subfolders(folder: Path, has_pictures: bool, used: set[Path]) -> list[Finding]:
    """Pictures are looked for in the folder itself; where there are some below, that is worth saying."""
    below = [path.name for path in subfolders(folder) if path not in used and _holds_pictures(path)]
    named = ", ".join(below[:3])
    if not has_pictures:
        advice = f"There are pictures in its subfolders ({named}): name one of those." if below else "Check the path."
        return [Finding("no pictures", "error", str(folder), "holds no pictures.", advice)]
    return (
        [Finding("unused folder", "notice", str(folder), f"pictures in its subfolders ({named}) are not used.")]
        if below
        else []
    )


def _holds_pictures(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_EXTENSIONS for path in folder.iterdir())


def _about_captions(subset: Subset, files: Sequence[Path], captions: Siblings) -> list[Finding]:
    """Which ending captions have, where that was left open or looks wrong."""
    folder, asked = str(subset.image_dir), subset.captions.caption_extension
    present = sorted({path.suffix.lower() for path in files if path.suffix.lower() in CAPTION_EXTENSIONS})
    if asked is None:
        return (
            [Finding("caption files", "notice", folder, f"captions are read from {' and '.join(present)} files.")]
            if present
            else []
        )
    if present and not len(captions):
        message = f"has no captions that end in {asked}, but some in {' and '.join(present)}."
        return [Finding("caption files", "warning", folder, message, "Leave out caption_extension, or set it to that.")]
    return []


def _caption_extensions(subset: Subset) -> tuple[str, ...]:
    extension = subset.captions.caption_extension
    if extension is None:
        return CAPTION_EXTENSIONS
    return (extension.lower() if extension.startswith(".") else f".{extension.lower()}",)


def _nothing(finding: Finding) -> Survey:
    return Survey([], [finding])
