"""Real pictures of every awkward kind, and a folder of them whose every byte is remembered."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from library.config.schema.data import BucketConfig
from library.data.preparing.outcome import Request
from library.data.preparing.settings import Settings


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture of large soft blobs, so that JPEG and resizing change it little; every seed looks different."""
    draw = np.random.default_rng(seed)
    blobs = Image.fromarray(draw.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return blobs.resize((width, height), Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def everything(root: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of change of every file."""
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def settings_for(**given: Any) -> Settings:
    """Settings for small pictures; those of buckets may be given flat."""
    tiny: dict[str, Any] = {
        "resolution": [64, 64],
        "min_bucket_reso": 32,
        "max_bucket_reso": 128,
        "bucket_reso_steps": 16,
    }
    names = [name for name in given if name in BucketConfig.__dataclass_fields__]
    buckets = {"enable_bucket": given.get("fit") != "square", **tiny, **{name: given.pop(name) for name in names}}
    return Settings(buckets=BucketConfig(**buckets), **given)


@pytest.fixture
def originals(tmp_path: Path) -> Iterator[Path]:
    """A folder of originals; whatever a test does, not a byte and no time of change in it may differ afterwards.

    Tests that change originals themselves say so by the file `changed` beside the folder.
    """
    root = tmp_path / "originals"
    folder = root / "10_anna woman"
    folder.mkdir(parents=True)
    for number in range(6):
        size = (200, 150) if number % 2 else (120, 180)
        path = folder / f"{number}.png"
        path.write_bytes(saved(smooth(*size, seed=number)))
        path.with_suffix(".txt").write_text(f"anna, picture {number}", encoding="utf-8")
    before = everything(root)
    yield root
    if not (tmp_path / "changed").exists():
        assert everything(root) == before


@pytest.fixture
def request_for(originals: Path, tmp_path: Path) -> Callable[..., Request]:
    """A request on those originals; settings may be given flat."""

    def make(**given: Any) -> Request:
        own = {name: given.pop(name) for name in list(given) if name in Request.__dataclass_fields__}
        return Request(**{"source": originals, "out": tmp_path / "out", "settings": settings_for(**given), **own})

    return make
