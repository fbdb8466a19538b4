"""Describing many pictures: they are read ahead in threads while the model looks at those before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from library.core.runtime import available_cores
from library.data.pictures.images import PictureError, decode, over_background

Describe = Callable[[Sequence[Image.Image]], list[str]]
"""Upright RGB pictures of any size to a text for each."""


def describe_all(
    pictures: Sequence[Path], describe: Describe, batch_size: int, background: str, progress: str = ""
) -> tuple[dict[Path, str], dict[Path, str]]:
    """Texts of pictures.

    Args:
        background: colour behind transparent parts.
        progress: title of a bar with the time left; "" shows none.

    Returns:
        The texts, and of pictures that cannot be read the reason. After Ctrl-C those that were described by then.
    """
    texts: dict[Path, str] = {}
    unreadable: dict[Path, str] = {}
    with (
        suppress(KeyboardInterrupt),  # hours of a model's work are not thrown away
        tqdm(total=len(pictures), desc=progress, unit="picture", disable=not progress) as bar,
    ):
        for paths, images in _batches(pictures, batch_size, background):
            readable = [(path, image) for path, image in zip(paths, images) if isinstance(image, Image.Image)]
            unreadable |= {path: image for path, image in zip(paths, images) if isinstance(image, str)}
            if readable:
                found = describe([image for _, image in readable])
                texts |= {path: text for (path, _), text in zip(readable, found, strict=True)}
            bar.update(len(paths))
    return texts, unreadable


def _batches(
    pictures: Sequence[Path], size: int, background: str
) -> Iterator[tuple[Sequence[Path], list[Image.Image | str]]]:
    """Paths and their pictures, a batch ahead of what is asked for."""
    batches = [pictures[start : start + size] for start in range(0, len(pictures), size)]
    with ThreadPoolExecutor(max(2, available_cores())) as pool:
        reading = [pool.submit(_read, path, background) for path in batches[0]] if batches else []
        for number, paths in enumerate(batches):
            images = [future.result() for future in reading]
            following = batches[number + 1] if number + 1 < len(batches) else []
            reading = [pool.submit(_read, path, background) for path in following]
            yield paths, images


def _read(path: Path, background: str) -> Image.Image | str:
    """The picture, or why there is none."""
    try:
        return over_background(decode(path.read_bytes()), background)
    except PictureError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})."
