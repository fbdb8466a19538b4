"""Findings about folders: what lies in them that is not used, and how their captions end."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from library.config.dataset import IMAGE_EXTENSIONS, Subset
from library.data.checks.findings import Finding
from library.data.index.folder import Folder, Listing
from library.data.index.siblings import CAPTION_EXTENSIONS, extension_of, stem_of, subfolders

UNREAD_EXTENSIONS = frozenset(
    {".heic", ".heif", ".jxl", ".psd", ".svg", ".cr2", ".nef", ".dng", ".exr", ".jp2", ".jfif"}
)
"""Endings of pictures that are not read, so that leaving them out is said."""


def about_files(folder: Folder, files: Listing, pictures: Listing) -> Iterator[Finding]:
    """Pictures of kinds that are not read, and such as have the same name."""
    for name in files.names:
        if (extension := extension_of(name)) in UNREAD_EXTENSIONS:
            message = f"is a {extension} file, which is not read."
            yield Finding("not read", "warning", str(folder.path(name)), message, "Convert it to PNG or JPEG.")
    first: dict[str, str] = {}
    for name in pictures.names:
        other = first.setdefault(stem_of(name), name)
        if other is not name:
            message = f"has the same name as {Path(other).name}."
            yield Finding("same name", "notice", str(folder.path(name)), message, "Both train.")


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


def about_caption_files(subset: Subset, files: Listing, has_captions: bool) -> Iterator[Finding]:
    """Which ending captions have, where that was left open or looks wrong."""
    folder, asked = str(subset.image_dir), subset.captions.caption_extension
    present = sorted({ending for name in files.names if (ending := extension_of(name)) in CAPTION_EXTENSIONS})
    if asked is None and present:
        message = f"captions are read from {' and '.join(present)} files."
        yield Finding("caption files", "notice", folder, message)
    elif asked is not None and present and not has_captions:
        message = f"has no captions that end in {asked}, but some in {' and '.join(present)}."
        advice = "Leave out caption_extension, or set it to that."
        yield Finding("caption files", "warning", folder, message, advice)


def _holds_pictures(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_EXTENSIONS for path in folder.iterdir())
