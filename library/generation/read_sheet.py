"""Reading character sheets, with every mistake told at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from library.config.places import CHARACTERS, reachable, shown_path
from library.core.documents import DocumentError, parse_toml
from library.core.errors import UserError, did_you_mean, raise_all
from library.generation.sheet import AXES, CAPTION, PROMPT, CharacterSheet, Choice
from library.generation.table import Table
from library.generation.templates import template_mistake

WORDS = ("name", "trigger", "class_word", "description")

KEYS = (
    *WORDS, *AXES, "axes", "negative", "seeds", "width", "height", "steps", "scale", "sampler", "num_repeats", "prompt", "caption",
)  # fmt: skip

CHOICE_KEYS = ("name", "prompt", "caption", "weight")

SHOT_KEYS = (*CHOICE_KEYS, "poses", "aspect", "width", "height")


def shipped_characters() -> list[str]:
    """The characters that come with the project."""
    return sorted(path.stem for path in CHARACTERS.glob("*.toml"))


def find_sheet(name: str) -> Path:
    """The file of a character that ships, or the file at a path.

    Raises:
        UserError: there is none.
    """
    known = shipped_characters()
    if name in known:
        return CHARACTERS / f"{name}.toml"
    try:
        path = Path(reachable(name))
    except ValueError as error:
        raise UserError(f"--character {name}: expected {error}.") from error
    if path.is_file():
        return path
    raise UserError(
        f"--character {name}: no such character, and no such file.{did_you_mean(name, known)} Characters that come with LoRA Dojo: "
        f"{', '.join(known)}. Your own is a TOML file: copy {shown_path(CHARACTERS / f'{known[0]}.toml')}, edit it, and give its path."
    )


def read_sheet(path: Path, changes: Mapping[str, Any]) -> CharacterSheet:
    """The sheet in a file.

    Args:
        changes: keys whose values the command line decides.

    Raises:
        UserError: it cannot be read, or every mistake that is in it.
    """
    try:
        table = parse_toml(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text: {error}.") from error
    except DocumentError as error:
        raise UserError(f"{path} is not readable TOML: {error}.") from error
    place = f"{shown_path(path)}, with the command line" if changes else shown_path(path)
    return sheet_of({"name": path.stem, **table, **changes}, place)


def sheet_of(content: Mapping[str, Any], place: str) -> CharacterSheet:
    """The sheet that a table holds.

    Args:
        place: where it stands, for messages.

    Raises:
        UserError: every mistake.
    """
    table = Table(content, place, [])
    table.refuse_unknown(KEYS)
    words = {key: table.text(key) for key in WORDS}
    for key in ("name", "trigger", "description"):
        if not words[key]:
            table.mistake(key, f"is missing: {WHY[key]}")
    for key in ("name", "trigger", "class_word"):
        table.refuse_in_names(key, words[key])
    axes = _axes(table)
    fields = [*WORDS, *AXES.values(), *(axis for axis in axes if axis not in AXES.values())]
    further = "".join(f", {{{axis}}}" for axis in axes if axis not in AXES.values())
    sheet = CharacterSheet(
        **words,
        axes=axes,
        negative=table.text("negative"),
        seeds=table.seeds("seeds"),
        width=table.whole("width", None, 1, 8192),
        height=table.whole("height", None, 1, 8192),
        steps=table.whole("steps", 30, 1, 1000) or 30,
        scale=table.number("scale", 7.5, 0, 1000),
        sampler=table.sampler("sampler"),
        num_repeats=table.whole("num_repeats", 10, 1, 100_000) or 10,
        prompt=table.text("prompt", PROMPT + further),
        caption=table.text("caption", CAPTION + further),
        table=content,
    )
    for key, template in (("prompt", sheet.prompt), ("caption", sheet.caption)):
        if mistake := template_mistake(template, fields):
            table.mistake(key, mistake)
    raise_all(table.mistakes)
    return sheet


WHY = {
    "name": "what the character is called; the folder of the pictures too.",
    "trigger": "the word that calls the character, first in every caption; one that the base model does not know.",
    "description": "what never changes of the character (hair, face, build); it goes into every prompt and no caption.",
    "poses": 'a sheet needs some, such as poses = ["standing", "sitting", "walking"].',
    "shots": 'a sheet needs some, such as shots = ["full body", "upper body", "portrait"].',
}
"""What keys are for that a sheet cannot do without."""


def _axes(table: Table) -> dict[str, tuple[Choice, ...]]:
    axes = {field: _choices(table, key, SHOT_KEYS if key == "shots" else CHOICE_KEYS) for key, field in AXES.items()}
    for key in ("poses", "shots"):
        if not axes[AXES[key]] and not table.content.get(key):
            table.mistake(key, f"is missing: {WHY[key]}")
    own = table.inner("axes")
    for key in own.content:
        if key in axes or key in WORDS or not key.isidentifier():
            own.mistake(key, "cannot be the name of an axis: take another word, of letters, digits and _.")
        else:
            axes[key] = _choices(own, key, CHOICE_KEYS)
    poses = [choice.name for choice in axes["pose"]]
    for number, shot in enumerate(axes["shot"], start=1):
        for pose in shot.poses or ():
            if pose not in poses:
                table.mistake(
                    f"shots, entry {number}",
                    f"goes with a pose '{pose}' that is not among the poses.{did_you_mean(pose, poses)}",
                )
    return {axis: choices for axis, choices in axes.items() if choices}


def _choices(table: Table, key: str, keys: Collection[str]) -> tuple[Choice, ...]:
    """The entries of a list: texts, or tables."""
    entries = table.content.get(key, [])
    if not isinstance(entries, list):
        table.mistake(key, f'must be a list, such as {key} = ["one", "another"].')
        return ()
    choices = []
    for number, entry in enumerate(entries, start=1):
        place = f"{table.place}: {key}, entry {number}"
        if isinstance(entry, str) and entry.strip():
            text = " ".join(entry.split())
            choices.append(Choice(text, text, text))
        elif isinstance(entry, dict):
            choices.append(_choice(Table(entry, place, table.mistakes), keys))
        else:
            table.mistakes.append(f"{place}: must be text, or a table with {', '.join(keys)}.")
    names = [choice.name for choice in choices]
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        table.mistake(key, f"names '{name}' twice; weight = 2 in a table takes an entry twice as often.")
    return tuple(choices)


def _choice(table: Table, keys: Collection[str]) -> Choice:
    table.refuse_unknown(keys)
    name = table.text("name", table.text("prompt"))
    if not name:
        table.mistakes.append(f"{table.place}: needs a name or a prompt.")
    prompt = table.text("prompt", name)
    width, height = table.whole("width", None, 1, 8192), table.whole("height", None, 1, 8192)
    if (width is None) != (height is None):
        table.mistakes.append(f"{table.place}: width and height must both be given.")
    return Choice(
        name,
        prompt,
        table.text("caption", prompt),
        table.number("weight", 1.0, 0.01, 1000),
        table.names("poses"),
        table.aspect("aspect"),
        (width, height) if width and height else None,
    )
