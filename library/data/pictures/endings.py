"""Endings of picture files, in lower case: those that training reads, those that are converted for it, and those of neither."""

from __future__ import annotations

from importlib.util import find_spec

from library.config.picture_folders import IMAGE_EXTENSIONS

CONVERTIBLE = frozenset({".jfif", ".jpe", ".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".psd"})
"""Read by `dojo dataset prepare` alone."""

HEIF, JXL = ("pillow_heif", "pillow-heif"), ("pillow_jxl", "pillow-jxl-plugin")
"""Plugins of Pillow: the module, and the package that has it."""

NEEDED = {".heic": HEIF, ".heif": HEIF, ".hif": HEIF, ".jxl": JXL}
"""Without which `dojo dataset prepare` does not read a kind."""

UNREADABLE = frozenset(
    {".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".raf", ".rw2", ".svg", ".exr", ".tga", ".xcf", ".kra", ".clip"}
    | {".mp4", ".mov", ".webm", ".avi", ".mkv"}
)
"""Pictures and films that nothing here reads."""

READ = IMAGE_EXTENSIONS | CONVERTIBLE
"""Taken for pictures by `dojo dataset prepare`; what they are is told by their bytes."""

UNTRAINED = CONVERTIBLE | UNREADABLE
"""Not read in training, so that leaving them out is said."""

ALIASES = {".jpg": "JPEG", ".tif": "TIFF"}

EXPORT = "Export it as PNG or JPEG."
"""What to do with one of UNREADABLE."""


def kind_of(ending: str) -> str:
    """Pillow's name of the kind that one of IMAGE_EXTENSIONS stands for."""
    return ALIASES.get(ending, ending[1:].upper())


def how_to_convert(ending: str) -> str:
    """What to do with one of CONVERTIBLE; names the package that is missing."""
    module, package = NEEDED.get(ending, ("", ""))
    if module and find_spec(module) is None:
        return f"`dojo dataset prepare` converts it, once `pip install {package}` has been run."
    return "`dojo dataset prepare` converts it."
