"""Taggers in the layout of SmilingWolf's wd-*-tagger: a model in ONNX's format and the list of its tags."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from library.core.errors import UserError
from library.data.captions.tags import TagMatcher, join_tags, with_spaces

MODEL, TAGS = "model.onnx", "selected_tags.csv"
GENERAL, CHARACTER = 0, 4
"""Categories of tags; 9, the rating, is not written into captions."""


@dataclass(frozen=True)
class TagChoice:
    """Which tags are written."""

    general_threshold: float = 0.35
    """Probability from which a tag counts."""
    character_threshold: float = 0.85
    """The same for names of characters."""
    undesired: tuple[str, ...] = ()
    """Tags that are never written; `*` stands for any text."""
    separator: str = ","


class Tagger:
    """Describes pictures by tags.

    Args:
        folder: holds model.onnx and selected_tags.csv.
        choice: which tags are written.
        device: "cpu", "cuda", or "auto" for a GPU where onnxruntime has one.

    Raises:
        UserError: onnxruntime is not installed, or the folder holds no such tagger.
    """

    def __init__(self, folder: Path, choice: TagChoice, device: str = "auto") -> None:
        self._tags = read_tags(folder / TAGS)
        self._choice = choice
        self._undesired = TagMatcher(choice.undesired)
        self._session = _session(folder / MODEL, device)
        inputs = self._session.get_inputs()[0]
        self._input = inputs.name
        batch, height, width, channels = (*inputs.shape, None, None, None, None)[:4]
        if not isinstance(height, int) or height != width or channels != 3:
            raise UserError(
                f"{folder / MODEL} reads pictures of the shape {inputs.shape}; a tagger as SmilingWolf's, which reads (batch, size, size, 3), "
                "is expected."
            )
        self._side = height
        self._batch = batch if isinstance(batch, int) else None

    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """Tags of upright RGB pictures of any size: characters first, then the others, each by probability."""
        pixels_BHWC = np.stack([prepared(image, self._side) for image in images])
        return [self._written(probabilities) for probabilities in self._probabilities(pixels_BHWC)]

    def _probabilities(self, pixels_BHWC: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of every tag, (B, tags); a model whose batch is fixed gets it filled up."""
        size = self._batch or len(pixels_BHWC)
        found = []
        for start in range(0, len(pixels_BHWC), size):
            part = pixels_BHWC[start : start + size]
            filled = np.concatenate([part, np.repeat(part[:1], size - len(part), axis=0)])
            found.append(self._session.run(None, {self._input: filled})[0][: len(part)])
        probabilities = np.concatenate(found)
        if probabilities.shape[1:] != (len(self._tags),):
            raise UserError(
                f"the tagger gives {probabilities.shape[-1]} probabilities, but {TAGS} lists {len(self._tags)} tags. Take both files "
                "from the same model."
            )
        return probabilities

    def _written(self, probabilities: NDArray[np.float32]) -> str:
        thresholds = {GENERAL: self._choice.general_threshold, CHARACTER: self._choice.character_threshold}
        chosen = [
            (category != CHARACTER, -float(probability), tag)
            for (tag, category), probability in zip(self._tags, probabilities, strict=True)
            if category in thresholds and probability >= thresholds[category] and not self._undesired(tag)
        ]
        return join_tags((with_spaces(tag) for _, _, tag in sorted(chosen)), self._choice.separator)


def read_tags(path: Path) -> list[tuple[str, int]]:
    """Tags and their categories, from a table with the columns `name` and `category`.

    Raises:
        UserError: the file is missing or is no such table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [(row["name"], int(row["category"])) for row in csv.DictReader(file)]
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}). --tagger names a folder with {MODEL} and {TAGS}."
        ) from error
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{path} is no table of tags with the columns name and category ({error}).") from error


def prepared(image: Image.Image, side: int) -> NDArray[np.float32]:
    """(side, side, 3): the picture in the middle of a white square, resized; blue, green, red from 0 to 255."""
    longest = max(image.size)
    square = Image.new("RGB", (longest, longest), "white")
    square.paste(image, ((longest - image.width) // 2, (longest - image.height) // 2))
    resized = square.resize((side, side), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(resized, dtype=np.float32)[:, :, ::-1])


def _session(path: Path, device: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            "--tagger needs the package onnxruntime, which is not installed here: run `pip install onnxruntime` "
            "(`onnxruntime-gpu` for NVIDIA cards)."
        ) from error
    if not path.is_file():
        raise UserError(f"there is no {path}. --tagger names a folder with {MODEL} and {TAGS}.")
    has_gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device == "cuda" and not has_gpu:
        raise UserError("--device cuda, but this onnxruntime has no GPU: run `pip install onnxruntime-gpu`.")
    gpu = ["CUDAExecutionProvider"] if has_gpu and device != "cpu" else []
    try:
        return onnxruntime.InferenceSession(str(path), providers=[*gpu, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds have no common class but this
        raise UserError(f"{path} is no model that onnxruntime can read ({str(error).splitlines()[0]}).") from error
