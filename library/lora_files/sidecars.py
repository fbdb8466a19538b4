"""Files beside a LoRA that A1111, Forge, ComfyUI and LoRA managers show: its card and its preview picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library.core.documents import DocumentError, parse_json
from library.core.errors import UserError
from library.core.files import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

SD_VERSIONS = {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL"}


def card(
    family: str, triggers: str, description: str = "", negative: str = "", notes: str = "", weight: float = 1.0
) -> dict[str, str | float]:
    """What A1111 keeps of a LoRA: `triggers` are added to the prompt when the user clicks on it, at strength `weight`."""
    return {
        "description": description,
        "sd version": SD_VERSIONS.get(family, "Unknown"),
        "activation text": triggers,
        "preferred weight": weight,
        "negative text": negative,
        "notes": notes,
    }


def read_card(lora: Path) -> dict[str, Any] | None:
    """What `name.json` beside the LoRA `name.safetensors` holds; None where there is none.

    Raises:
        UserError: it is no table of JSON.
    """
    path = lora.with_name(f"{lora.stem}.json")
    if not path.is_file():
        return None
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (DocumentError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path.as_posix()} cannot be read: {error}. Mend or remove it.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path.as_posix()} is not a card of A1111: it holds no table. Mend or remove it.")
    return found


def save_card(lora: Path, values: Mapping[str, str | float]) -> Path:
    """Write `name.json` beside the LoRA `name.safetensors`."""
    path = lora.with_name(f"{lora.stem}.json")
    text = json.dumps(dict(values), indent=4, ensure_ascii=False)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def save_preview(lora: Path, picture: Image) -> Path:
    """Write `name.preview.png` beside the LoRA `name.safetensors`."""
    path = lora.with_name(f"{lora.stem}.preview.png")
    save_picture(picture, path)
    return path


def save_picture(picture: Image, path: Path) -> None:
    """Write a PNG file, whole or not at all."""
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))
