"""Findings about folders: what lies in them that is not used, and what has the same name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from library.config.dataset import IMAGE_EXTENSIONS
from library.data.checks.findings import Finding
from library.data.index.folder import Folder, Listing
from library.data.index.siblings import extension_of, stem_of, subfolders
from library.data.pictures.endings import CONVERTIBLE, EXPORT, UNTRAINED, how_to_convert


def about_unread(folder: Folder, files: Listing) -> Iterator[Finding]:
    """Pictures of kinds that are not read."""
    for name in files.names:
        if (ending := extension_of(name)) in UNTRAINED:
            message = f"is a {ending} file, which is not read."
            advice = how_to_convert(ending) if ending in CONVERTIBLE else EXPORT
            yield Finding("not read", "warning", str(folder.path(name)), message, advice)


def about_no_files(folder: Folder, no_files: Mapping[str, str], endings: Collection[str]) -> Iterator[Finding]:
    """What has the name of a picture or a caption, by its ending, and is no file."""
    for name, what in no_files.items():
        if extension_of(name) in endings:
            yield Finding("unreadable", "warning", str(folder.path(name)), f"{what}.", "It is left out.")


def about_same_names(folder: Folder, names: Iterable[str]) -> Iterator[Finding]:
    """Pictures that have the same name but for their endings."""
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(stem_of(name), name)
        if other is not name:
            message = f"has the same name as {Path(other).name}."
            path, of = str(folder.path(name)), str(folder.path(other))
            yield Finding("same name", "notice", path, message, "Both train.", other=of)


def about_subfolders(folder: Path, has_pictures: bool, used: Collection[Path | None]) -> Iterator[Finding]:
    """Pictures are looked for in the folder itself; where there are some below that nothing uses, that is worth saying."""
    below = [path.name for path in subfolders(folder) if path not in used and _holds_pictures(path)]
    named = ", ".join(below[:3])
    if not has_pictures:
        there_are = f"There are pictures in its subfolders ({named}): name one of those, or set recursive."
        yield Finding(
            "no pictures", "error", str(folder), "holds no pictures.", there_are if below else "Check the path."
        )
    elif below:
        message = f"pictures in its subfolders ({named}) are not used."
        yield Finding("unused folder", "notice", str(folder), message, "recursive = true uses them.")


def _holds_pictures(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_EXTENSIONS for path in folder.iterdir())
