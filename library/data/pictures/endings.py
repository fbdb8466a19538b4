"""Endings of picture files, in lower case: those that training reads, those that are converted for it, and those of neither."""

from __future__ import annotations

from library.config.picture_folders import IMAGE_EXTENSIONS

CONVERTIBLE = frozenset({".jfif", ".jpe", ".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".psd"})
"""Read by `dojo dataset prepare` alone."""

UNREADABLE = frozenset(
    {".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".raf", ".rw2", ".svg", ".exr", ".tga", ".xcf", ".kra", ".clip"}
    | {".mp4", ".mov", ".webm", ".avi", ".mkv"}
)
"""Pictures and films that nothing here reads."""

READ = IMAGE_EXTENSIONS | CONVERTIBLE
"""Taken for pictures by `dojo dataset prepare`; what they are is told by their bytes."""

UNTRAINED = CONVERTIBLE | UNREADABLE
"""Not read in training, so that leaving them out is said."""

EXPORT = "Export it as PNG or JPEG."
"""What to do with one of UNREADABLE."""
