"""The originals: which pictures and captions there are. Nothing here writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from library.core.errors import UserError
from library.data.checks.findings import Finding
from library.data.checks.folders import about_no_files
from library.data.index.folder import FOLDER, Folder
from library.data.index.siblings import (
    CAPTION_EXTENSIONS,
    Siblings,
    extension_of,
    normal,
    stem_of,
    subfolders,
    suggestion,
    without_face,
)
from library.data.pictures.endings import EXPORT, READ, UNREADABLE
from library.data.pictures.placement import Face, face_of


@dataclass(frozen=True)
class Original:
    """A picture file, and what belongs to it."""

    path: Path
    folder: PurePosixPath
    """Below the source."""
    captions: tuple[Path, ...]
    """Its caption files, one of each ending."""
    stem: str
    """Its name among the prepared ones, without ending and without a face's numbers; no other's in its folder."""

    @property
    def name(self) -> str:
        """Its path below the source."""
        return (self.folder / self.path.name).as_posix()

    @property
    def is_renamed(self) -> bool:
        """Another picture of its folder has its name."""
        return self.stem != _plain_stem(self.path.name)

    @property
    def face(self) -> Face | None:
        """The face that its name tells of, in pixels of the upright picture."""
        return face_of(self.path.stem)


@dataclass(frozen=True)
class Found:
    """What a look at the source gave."""

    originals: list[Original]
    findings: list[Finding]


def find_originals(source: Path, recursive: bool, caption_endings: Sequence[str] = CAPTION_EXTENSIONS) -> Found:
    """Every picture of the source, in a fixed order.

    Args:
        source: a folder.
        recursive: look through folders of any depth; else as the trainer does in train_data_dir: the pictures in it, and those in
            the folders directly below.

    Raises:
        UserError: there is no such folder, or it holds no picture.
    """
    if not source.is_dir():
        what = "is a file, not a folder." if source.exists() else f"there is no such folder. {suggestion(source)}"
        raise UserError(f"{source}: {what}")
    found = Found([], [])
    for folder in _folders(source, None if recursive else 1, set()):
        _look_through(folder, PurePosixPath(folder.relative_to(source).as_posix()), caption_endings, found)
    if not recursive:
        found.findings.extend(_deeper(source))
    if not found.originals:
        deeper = " Those in deeper folders are found with --recursive." if _has_deeper(found) else ""
        raise UserError(f"{source}: no pictures in it, nor in the folders directly below.{deeper}")
    return found


def _folders(folder: Path, depth: int | None, above: set[Path]) -> Iterator[Path]:
    """The folder and those below it, parents first; links that lead in a circle are followed once."""
    real = folder.resolve()
    if real in above:
        return
    yield folder
    if depth != 0:
        for child in _below(folder):
            yield from _folders(child, None if depth is None else depth - 1, above | {real})


def _below(folder: Path) -> list[Path]:
    return [child for child in subfolders(folder) if not child.name.startswith("@")]


def _look_through(folder: Path, below: PurePosixPath, endings: Sequence[str], found: Found) -> None:
    """Add a folder's own pictures."""
    listing = Folder(folder).listing()
    others = {name: what for name, what in listing.no_files.items() if what != FOLDER}  # folders are looked through
    found.findings.extend(about_no_files(Folder(folder), others, READ.union(endings)))
    names = listing.names
    pictures = [name for name in names if extension_of(name) in READ and _is_utf8(folder / name, found)]
    captions = [Siblings(names, [ending]) for ending in endings]
    used: set[str] = set()
    for name, stem in zip(pictures, distinct_stems(pictures), strict=True):
        own = [names[place] for each in captions if (place := each.caption_of(name)) is not None]
        found.originals.append(Original(folder / name, below, tuple(folder / caption for caption in own), stem))
        used.update(own)
    found.findings.extend(_about_others([name for name in names if name not in used], bool(pictures), folder, endings))


def _about_others(
    names: Sequence[str], beside_pictures: bool, folder: Path, endings: Sequence[str]
) -> Iterator[Finding]:
    """What is to be said of files that are neither pictures nor captions of some."""
    for name in names:
        path, ending = str(folder / name), extension_of(name)
        if ending in UNREADABLE:
            yield Finding("not read", "warning", path, f"is a {ending} file, which is not read.", EXPORT)
        elif ending in endings and beside_pictures:
            yield Finding("no picture", "notice", path, "has no picture of its name.", "It is not copied.")
        elif ending in (".json", ".jsonl"):
            yield Finding("metadata", "notice", path, "is not copied: it names the originals.")


def _is_utf8(path: Path, found: Found) -> bool:
    """Whether its name can be written down; names of other encodings are told."""
    try:
        path.name.encode()
    except UnicodeEncodeError:
        message = "has a name that is not UTF-8."
        found.findings.append(Finding("name", "warning", str(path), message, "It is left out; rename it."))
        return False
    return True


def distinct_stems(names: Sequence[str]) -> list[str]:
    """A stem for each file name of a folder, so that no two are the same whatever their case.

    Without a face's numbers, which change with the picture. The first of a name keeps it; the next is called after its ending too:
    a.jpg and a.png become `a` and `a_png`.
    """
    stems = [_plain_stem(name) for name in names]
    taken: set[str] = set()
    own = {stem.lower() for stem in stems}
    found = []
    for name, stem in zip(names, stems):
        wanted = stem
        if stem.lower() in taken:
            wanted = base = f"{stem}_{extension_of(name)[1:]}"
            number = 2
            while wanted.lower() in taken | own:
                wanted, number = f"{base}_{number}", number + 1
        taken.add(wanted.lower())
        found.append(wanted)
    return found


def _plain_stem(name: str) -> str:
    return without_face(normal(stem_of(name)))


def _deeper(source: Path) -> Iterator[Finding]:
    for child in _below(source):
        for folder in _below(child):
            if any(extension_of(name) in READ for name in Folder(folder).listing().names):
                message = "holds pictures, which are not looked for this deep."
                yield Finding("deeper folder", "notice", str(folder), message, "With --recursive they are.")


def _has_deeper(found: Found) -> bool:
    return any(finding.kind == "deeper folder" for finding in found.findings)
