"""Finding the pictures of a run with their captions, masks and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from library.config.dataset import IMAGE_EXTENSIONS, Dataset, Subset
from library.data.captions.files import metadata_caption, read_metadata
from library.data.checks.caption_files import about_caption, about_captions_alone, about_endings, about_missing
from library.data.checks.findings import Finding, Severity
from library.data.checks.folders import about_no_files, about_same_names, about_subfolders, about_unread
from library.data.checks.remarks import Remarks
from library.data.checks.sizes import UNUSABLE, is_usable, why_unusable
from library.data.index.captions import read_captions
from library.data.index.folder import Folder, Listing
from library.data.index.look import Looked, Looker
from library.data.index.pictures import ROW, Pictures, PicturesInTheMaking, SubsetFacts, joined, those
from library.data.index.record import RECORD
from library.data.index.siblings import Siblings, caption_endings, extension_of, stem_of, suggestion

LEFT_OUT = "It is left out."

STRETCHED = "It is stretched over the picture."

MASK_SHAPE_TOLERANCE = 0.02


@dataclass(frozen=True)
class Survey:
    """What a look at the data gave."""

    pictures: Pictures
    findings: list[Finding]


@dataclass(frozen=True, eq=False)
class Found:
    """Every picture of the datasets, in a fixed order, and what is known of each."""

    pictures: Pictures
    records_N: NDArray[np.void]
    """Of RECORD."""


@dataclass(frozen=True, eq=False)
class _Files:
    """The picture files of a subset, before they are looked at."""

    folder: Folder
    listing: Listing
    beside: Listing | None
    """All files of the folder, captions among them; None where the metadata file has the captions."""
    captions_N: NDArray[np.int64]
    """Numbers of the captions' texts in the metadata file."""


class Scanner:
    """Finds the pictures of a run, subset by subset.

    Args:
        datasets: the resolved ones.
        looker: looks at each picture.
        remarks: takes what is noticed on the way.
    """

    def __init__(self, datasets: Sequence[Dataset], looker: Looker, remarks: Remarks) -> None:
        self._datasets, self._looker, self._remarks = datasets, looker, remarks
        self._making = PicturesInTheMaking()
        self._records: list[NDArray[np.void]] = []
        subsets = [subset for dataset in datasets for subset in dataset.subsets]
        masks = {subset.images.conditioning_data_dir for subset in subsets} - {None}
        self._used = {subset.image_dir for subset in subsets} | {Path(str(folder)) for folder in masks}

    def scan(self) -> Found:
        """Every picture that can be read; the others are left out and told.

        Raises:
            UserError: a metadata file is not of the right form.
        """
        for number, dataset in enumerate(self._datasets):
            for index, subset in enumerate(dataset.subsets):
                if self._is_used(subset, dataset.subsets[:index]):
                    where = subset.metadata_file or subset.image_dir
                    try:
                        self._scan(number, index)
                    except OSError as error:
                        message = f"cannot be read ({error.strerror or error})."
                        advice = "See that it is there and may be read."
                        self._tell("unreadable", "error", error.filename or where, message, advice)
        return Found(self._making.finished(), joined(self._records, RECORD))

    def _tell(
        self, kind: str, severity: Severity, path: object, message: str, advice: str = "", of: object = ""
    ) -> None:
        self._remarks.add(Finding(kind, severity, str(path), message, advice, str(of)))

    def _is_used(self, subset: Subset, earlier: Sequence[Subset]) -> bool:
        where = subset.metadata_file or subset.image_dir
        if subset.num_repeats < 1:
            message = f"num_repeats is {subset.num_repeats}."
            self._tell("setting", "warning", where, message, "The subset is left out.")
        elif any(
            (other.image_dir, other.metadata_file) == (subset.image_dir, subset.metadata_file) for other in earlier
        ):
            advice = "The first is used; raise its num_repeats."
            self._tell("setting", "warning", where, "is given twice in one dataset.", advice)
        else:
            return True
        return False

    def _scan(self, number: int, index: int) -> None:
        subset = self._datasets[number].subsets[index]
        files = self._from_metadata(subset) if subset.metadata_file is not None else self._from_folder(subset)
        if files is None:
            return
        looked = self._looker.look(files.folder, files.listing)
        usable_N = self._is_usable(number, index, files, looked)
        rows_N = np.zeros(len(files.listing), ROW)
        for name in ("width", "height", "content"):
            rows_N[name] = looked.records_N[name]
        self._with_captions(subset, files, rows_N, usable_N)
        self._with_masks(subset, files, rows_N, usable_N)
        for place in np.flatnonzero(usable_N).tolist():
            rows_N["name"][place] = self._making.texts.add(files.listing.names[place])
        facts = SubsetFacts(files.folder.root, number, index, subset.is_reg, subset.num_repeats)
        self._making.add(facts, those(rows_N, usable_N))
        self._records.append(those(looked.records_N, usable_N))

    def _is_usable(self, number: int, index: int, files: _Files, looked: Looked) -> NDArray[np.bool_]:
        """(N,) which pictures can be read, are of a size to learn from and above skip_image_resolution."""
        for place, problem in sorted(looked.problems.items()):
            path = files.folder.path(files.listing.names[place])
            self._tell("unreadable", "warning", path, problem, LEFT_OUT)
        usable_N = np.ones(len(files.listing), bool)
        usable_N[list(looked.problems)] = False
        widths_N, heights_N = looked.records_N["width"], looked.records_N["height"]
        learnable_N = is_usable(widths_N, heights_N)
        for place in np.flatnonzero(usable_N & ~learnable_N).tolist():
            path = files.folder.path(files.listing.names[place])
            reason = why_unusable((int(widths_N[place]), int(heights_N[place])))
            self._tell(UNUSABLE, "warning", path, reason, LEFT_OUT)
        usable_N &= learnable_N
        width, height = self._datasets[number].buckets.skip_image_resolution or (0, 0)
        large_N = widths_N.astype(np.int64) * heights_N > width * height
        skipped, subset = int((usable_N & ~large_N).sum()), self._datasets[number].subsets[index]
        if width and skipped:
            message = (
                f"{skipped} of {int(usable_N.sum())} pictures are left out, not being above skip_image_resolution."
            )
            self._tell("left out", "notice", subset.metadata_file or subset.image_dir, message)
        return usable_N & large_N

    def _from_folder(self, subset: Subset) -> _Files | None:
        root = subset.image_dir
        assert root is not None
        if not root.is_dir():
            self._tell("no folder", "error", root, "there is no such folder.", suggestion(root))
            return None
        folder = Folder(root)
        files = folder.listing(subset.recursive)
        pictures = files.taken(n for n, name in enumerate(files.names) if extension_of(name) in IMAGE_EXTENSIONS)
        self._remarks.add_all(about_unread(folder, files))
        endings = IMAGE_EXTENSIONS.union(caption_endings(subset.captions.caption_extension))
        self._remarks.add_all(about_no_files(folder, files.no_files, endings))
        if not subset.recursive:
            self._remarks.add_all(about_subfolders(root, bool(len(pictures)), self._used))
        elif not len(pictures):
            self._tell("no pictures", "error", root, "holds no pictures, nor do its subfolders.", "Check the path.")
        return _Files(folder, pictures, files, np.zeros(len(pictures), np.int64))

    def _with_captions(
        self, subset: Subset, files: _Files, rows_N: NDArray[np.void], usable_N: NDArray[np.bool_]
    ) -> None:
        """Reads the captions of the usable pictures, and notes in the rows which is whose."""
        folder, names, texts, tokens = files.folder, files.listing.names, self._making.texts, subset.class_tokens or ""
        usable = np.flatnonzero(usable_N).tolist()
        if files.beside is None:
            rows_N["caption"] = files.captions_N
            for picture in np.flatnonzero(usable_N & (files.captions_N == 0)).tolist():
                self._remarks.add(about_missing(folder.path(names[picture]), ""))
            return
        siblings = Siblings(files.beside.names, caption_endings(subset.captions.caption_extension))
        found = [siblings.caption_of(name) for name in names]
        if names:
            self._remarks.add_all(about_endings(subset, files.beside, bool(len(siblings))))
            self._remarks.add_all(about_captions_alone(folder, files.beside, siblings, names, found))
        self._remarks.add_all(about_same_names(folder, (names[picture] for picture in usable)))
        places = sorted({place for picture in usable if (place := found[picture]) is not None})
        read = read_captions(folder, files.beside.taken(places), self._looker.manifest, texts)
        number_of = {place: number for number, place in enumerate(places)}
        for picture in usable:
            caption, place = 0, found[picture]
            if place is None:
                self._remarks.add(about_missing(folder.path(names[picture]), tokens))
            else:
                number, name = number_of[place], files.beside.names[place]
                rows_N["caption_name"][picture] = texts.add(name)
                caption = int(read.numbers_N[number])
                if not caption or number in read.guessed:
                    path, of = folder.path(name), folder.path(names[picture])
                    problems = read.guessed.get(number), read.unreadable.get(number)
                    self._remarks.add_all(about_caption(path, of, tokens, *problems))
            rows_N["caption"][picture] = caption or texts.add(tokens)

    def _from_metadata(self, subset: Subset) -> _Files:
        assert subset.metadata_file is not None
        root = subset.image_dir or subset.metadata_file.parent
        folder, texts = Folder(root), self._making.texts
        listed = folder.listing().names if root.is_dir() else []
        siblings = Siblings(listed, sorted(IMAGE_EXTENSIONS))
        captions: dict[str, int] = {}
        for name, entry in read_metadata(subset.metadata_file).items():
            path = _named_picture(name, root, siblings, listed)
            if path is None:
                message = f"is named in {subset.metadata_file} but not found in {root}."
                self._tell("not found", "warning", name, message, LEFT_OUT)
                continue
            caption = metadata_caption(entry, subset.captions.caption_separator)
            named = folder.name_of(path)
            if named in captions:
                message = f"is named twice in {subset.metadata_file}."
                self._tell("same name", "warning", path, message, "The last caption is used.")
            captions[named] = texts.add(caption)
        if not captions:
            advice = f"Set image_dir to the folder of its pictures; they were looked for in {root}."
            self._tell("not found", "error", subset.metadata_file, "names no picture that can be found.", advice)
        listing = folder.named(captions)
        captions_N = np.array([captions[name] for name in listing.names], dtype=np.int64)
        return _Files(folder, listing, None, captions_N)

    def _with_masks(self, subset: Subset, files: _Files, rows_N: NDArray[np.void], usable_N: NDArray[np.bool_]) -> None:
        """Looks at the masks, and notes in the rows which is whose."""
        if subset.images.conditioning_data_dir is None:
            return
        folder = Folder(Path(subset.images.conditioning_data_dir))
        if not folder.root.is_dir():
            message = "conditioning_data_dir: there is no such folder."
            self._tell("no folder", "error", folder.root, message, suggestion(folder.root))
            return
        masks, texts = folder.listing(subset.recursive), self._making.texts
        siblings = Siblings(masks.names, sorted(IMAGE_EXTENSIONS))
        found = [siblings.find(stem_of(name)) for name in files.listing.names]
        places = sorted({place for place in found if place is not None})
        looked = self._looker.look(folder, masks.taken(places))
        number_of = {place: number for number, place in enumerate(places)}
        for picture in np.flatnonzero(usable_N):
            place, path = found[picture], files.folder.path(files.listing.names[picture])
            if place is None:
                advice = "Put a picture of the same name there."
                self._tell("no mask", "error", path, f"has no mask in {folder.root}.", advice)
                continue
            mask = folder.path(masks.names[place])
            rows_N["mask"][picture] = texts.add(str(mask))
            if (problem := looked.problems.get(number_of[place])) is not None:
                self._tell("mask", "error", mask, f"the mask {problem}", "Make it anew, or remove its picture.", path)
                continue
            record, row = looked.records_N[number_of[place]], rows_N[picture]
            rows_N["mask_content"][picture] = texts.add(bytes(record["content"]).hex())
            if abs(record["width"] / record["height"] * row["height"] / row["width"] - 1) > MASK_SHAPE_TOLERANCE:
                sizes = f"{record['width']}x{record['height']}, its picture {row['width']}x{row['height']}"
                self._tell("mask", "warning", mask, f"the mask is {sizes}: not the same shape.", STRETCHED, of=path)


def without_mask_pictures(dataset: Dataset) -> Dataset:
    """Mask pictures act through masked_loss alone; an alpha_mask acts by itself."""
    subsets = (replace(each, images=replace(each.images, conditioning_data_dir=None)) for each in dataset.subsets)
    return replace(dataset, subsets=tuple(subsets))


def _named_picture(name: str, root: Path, siblings: Siblings, listed: Sequence[str]) -> Path | None:
    """A metadata key is a path, a path below image_dir, or either without its extension."""
    candidates = [Path(name), root / name]
    for path in candidates:
        if path.suffix.lower() in IMAGE_EXTENSIONS and _is_file(path):
            return path
    if (place := siblings.find(name)) is not None:
        return root / listed[place]
    endings = [path.parent / (path.name + extension) for path in candidates for extension in sorted(IMAGE_EXTENSIONS)]
    return next((path for path in endings if _is_file(path)), None)


def _is_file(path: Path) -> bool:
    """Whether it is a file; what the system cannot look up, a name of thousands of characters say, is none."""
    try:
        return path.is_file()
    except OSError:
        return False
