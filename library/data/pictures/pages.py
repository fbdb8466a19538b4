"""Sheets of small pictures, on as many PNG files as they need."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from library.core.disk import writing
from library.core.files import write_atomically

MARK = "LoRA Dojo, page of a sheet"
"""Stands within each page, so that no other picture is taken for one."""

BEFORE_PIXELS = 256
"""Bytes of a PNG file among which the mark is."""

PACKING = 3
"""Of the PNG: half the time of the usual 6, and a tenth more bytes."""


def write_pages(file: Path, pages: Iterable[Image.Image]) -> list[Path]:
    """Write `sheet.png`, `sheet-2.png` and so on in place of a former sheet, of which pages may be more; returns their paths.

    Raises:
        UserError: a file cannot be written or removed.
    """
    marked = PngInfo()
    marked.add_text("Software", MARK)
    paths: list[Path] = []
    for number, page in enumerate(pages, start=1):
        path = file if number == 1 else file.with_name(f"{file.stem}-{number}{file.suffix}")
        write_atomically(path, partial(page.save, format="PNG", compress_level=PACKING, pnginfo=marked))
        paths.append(path)
    for former in set(_pages(file)) - set(paths):
        with writing(former):
            former.unlink(missing_ok=True)
    return paths


def _pages(file: Path) -> Iterator[Path]:
    """The pages of this sheet that are there."""
    name = re.compile(rf"{re.escape(file.stem)}(-\d+)?{re.escape(file.suffix)}")
    for path in file.parent.iterdir() if file.parent.is_dir() else ():
        if name.fullmatch(path.name) and path.is_file():
            with path.open("rb") as opened:
                if MARK.encode() in opened.read(BEFORE_PIXELS):
                    yield path
