from __future__ import annotations

from typing import Any

import pytest

from library.generation.read_sheet import sheet_of
from library.generation.sheet import CharacterSheet

CONTENT: dict[str, Any] = {
    "name": "anna",
    "trigger": "annx",
    "class_word": "woman",
    "description": "red hair, scar",
    "looks": ["green coat", {"name": "armor", "prompt": "shining steel armor", "caption": "armor"}],
    "poses": ["standing", "running", "sitting", "jumping"],
    "shots": [
        {"name": "full body", "weight": 2, "aspect": "2:3"},
        {"name": "portrait", "poses": []},
        {"name": "upper body", "poses": ["standing", "sitting"], "width": 40, "height": 30},
    ],
    "expressions": ["calm", "angry", "smiling"],
    "axes": {"weather": ["rain", "snow"]},
    "negative": "blurry",
    "seeds": 5,
    "steps": 2,
}


@pytest.fixture
def sheet():
    """`sheet(count=3)`: the sheet of Anna with these keys changed; None leaves one out."""

    def made(**changes: Any) -> CharacterSheet:
        content = {**CONTENT, **changes}
        return sheet_of({key: value for key, value in content.items() if value is not None}, "anna.toml")

    return made
