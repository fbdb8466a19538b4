"""Prompt files: .txt with a prompt a line and flags, .toml, .json, as sd-scripts reads them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from library.core.documents import UNUSABLE, DocumentError, parse_json, parse_toml
from library.core.errors import UserError, did_you_mean, raise_all
from library.inference.requests import SampleRequest
from library.inference.samplers import SAMPLERS

log = logging.getLogger("dojo")

FLAGS = {
    "n": "negative_prompt",
    "w": "width",
    "h": "height",
    "d": "seed",
    "s": "sample_steps",
    "l": "scale",
    "ss": "sample_sampler",
}
"""Flags of a line in a .txt file, as the keys of .toml and .json files."""
OF_OTHER_MODELS = "it is for other kinds of models"
IDLE = {
    "am": ("additional_network_multiplier", "pictures of training show the LoRA at strength 1, and `dojo sample --lora FILE:0.8` sets another"),
    "cn": ("controlnet_image", "there is no ControlNet here"),
    "ctr": ("cfg_trunc_ratio", OF_OTHER_MODELS),
    "fs": ("flow_shift", OF_OTHER_MODELS),
    "g": ("guidance_scale", f"{OF_OTHER_MODELS}; --l (scale) is classifier-free guidance"),
    "i": ("image", OF_OTHER_MODELS),
    "rcfg": ("renorm_cfg", OF_OTHER_MODELS),
}  # fmt: skip
"""sd-scripts' flags that change nothing here: flag -> its key in .toml and .json files, and why."""
FIELDS: dict[str, tuple[str, type]] = {
    "prompt": ("prompt", str),
    "negative_prompt": ("negative_prompt", str),
    "width": ("width", int),
    "height": ("height", int),
    "seed": ("seed", int),
    "sample_steps": ("steps", int),
    "scale": ("scale", float),
    "sample_sampler": ("sampler", str),
}
"""Keys, as the fields of `SampleRequest` and their types."""
RANGES = {"width": (1, 8192), "height": (1, 8192), "seed": (0, 2**63 - 1), "steps": (1, 1000), "scale": (0, 1000)}


@dataclass
class Entry:
    """One prompt as the file has it."""

    place: str
    """Where it stands, for messages."""
    fields: dict[str, Any] = field(default_factory=dict)
    """By the names of `SampleRequest`."""
    problems: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)
    """What has no effect, each with the reason."""


def read_prompts(file: Path, default: SampleRequest, stride: int) -> list[SampleRequest]:
    """The pictures that a prompt file asks for.

    Args:
        default: what prompts leave open; the n-th prompt without a seed takes `default.seed + n`, counted from 0.
        stride: sizes are rounded down to its multiples, with a notice.

    Raises:
        UserError: every mistake in the file, with its line or number.
    """
    entries = list(_entries(file))
    raise_all([f"{entry.place}: {problem}" for entry in entries for problem in entry.problems])
    if not entries:
        raise UserError(f"sample_prompts: '{file}' holds no prompt.")
    return [
        _request(entry, replace(default, seed=default.seed + number), stride) for number, entry in enumerate(entries)
    ]


def request_of_line(line: str, default: SampleRequest, stride: int) -> SampleRequest:
    """The picture that one line asks for, flags included; arguments as for `read_prompts`.

    Raises:
        UserError: unknown flags or values that do not fit.
    """
    entry = parse_line(line, f"'{line}'")
    raise_all([f"{entry.place}: {problem}" for problem in entry.problems])
    return _request(entry, default, stride)


def parse_line(line: str, place: str) -> Entry:
    """A prompt with flags: `a knight --n blurry --w 512 --d 1`."""
    prompt, *flags = f" {line}".split(" --")
    given: dict[str, Any] = {"prompt": prompt.strip()}
    entry = Entry(place)
    for text in flags:
        flag, _, value = text.strip().partition(" ")
        if flag.lower() in FLAGS:
            given[FLAGS[flag.lower()]] = value.strip()
        elif flag.lower() in IDLE:
            entry.idle.append(f"--{flag} has no effect: {IDLE[flag.lower()][1]}")
        else:
            known = ", ".join(f"--{known}" for known in FLAGS)
            entry.problems.append(f"unknown flag '--{flag}'. Known: {known}.")
    return _filled(entry, given)


def _entries(file: Path) -> Iterable[Entry]:
    readers = {".txt": _from_lines, ".toml": _from_toml, ".json": _from_json}
    if file.suffix.lower() not in readers:
        raise UserError(f"sample_prompts: '{file}' must end in {', '.join(readers)}.")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"sample_prompts: there is no file '{file}'.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"sample_prompts: '{file}' cannot be read as UTF-8 text: {error}.") from error
    return readers[file.suffix.lower()](text, file)


def _from_lines(text: str, file: Path) -> Iterable[Entry]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield parse_line(line.strip(), f"{file}, line {number}")


def _from_toml(text: str, file: Path) -> Iterable[Entry]:
    """`[prompt]` with what all prompts share, and `[[prompt.subset]]` for each."""
    try:
        shared = parse_toml(text).get("prompt", {})
    except DocumentError as error:
        raise UserError(f"sample_prompts: '{file}' is not readable TOML: {error}.") from error
    subsets = shared.pop("subset", None) if isinstance(shared, dict) else None
    if not isinstance(subsets, list) or not all(isinstance(subset, dict) for subset in subsets):
        raise UserError(f"sample_prompts: '{file}' needs a table [[prompt.subset]] for each prompt.")
    for number, subset in enumerate(subsets, start=1):
        yield _from_table({**shared, **subset}, f"{file}, prompt {number}")


def _from_json(text: str, file: Path) -> Iterable[Entry]:
    """A list of tables, or of lines as in a .txt file."""
    try:
        items = parse_json(text)
    except DocumentError as error:
        raise UserError(f"sample_prompts: '{file}' is not readable JSON: {error}.") from error
    if not isinstance(items, list) or not all(isinstance(item, (dict, str)) for item in items):
        raise UserError(f"sample_prompts: '{file}' must be a list of prompts.")
    for number, item in enumerate(items, start=1):
        place = f"{file}, prompt {number}"
        yield parse_line(item, place) if isinstance(item, str) else _from_table(item, place)


def _from_table(table: Mapping[str, Any], place: str) -> Entry:
    entry, idle = Entry(place), dict(IDLE.values())
    for key in table:
        if key in idle:
            entry.idle.append(f"{key} has no effect: {idle[key]}")
        elif key not in FIELDS:
            entry.problems.append(f"unknown key '{key}'.{did_you_mean(key, FIELDS)} Known: {', '.join(FIELDS)}.")
    return _filled(entry, {key: value for key, value in table.items() if key in FIELDS})


def _filled(entry: Entry, given: Mapping[str, Any]) -> Entry:
    """The entry with the values, checked, under the names of `SampleRequest`."""
    for key, value in given.items():
        name, kind = FIELDS[key]
        try:
            entry.fields[name] = _converted(value, kind)
            _check_range(name, entry.fields[name])
        except ValueError as error:
            entry.problems.append(f"{key} is '{str(value)[:100]}', but must be {error}.")
    if not entry.fields.get("prompt"):
        entry.problems.append("no prompt.")
    return entry


def _converted(value: Any, kind: type) -> Any:
    if isinstance(value, bool) or (kind is str and not isinstance(value, str)):
        raise ValueError("text" if kind is str else "a number")
    if kind is str and UNUSABLE.search(value):
        raise ValueError("text of whole characters; the terminal may have another encoding than UTF-8")
    if kind is int and isinstance(value, float) and not value.is_integer():
        raise ValueError("a whole number")
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("a whole number" if kind is int else "a number") from None


def _check_range(name: str, value: Any) -> None:
    if name == "sampler" and value not in SAMPLERS:
        raise ValueError(f"one of {', '.join(SAMPLERS)}")
    if name in RANGES:
        low, high = RANGES[name]
        if not low <= value <= high:
            raise ValueError(f"between {low} and {high}")


def _request(entry: Entry, default: SampleRequest, stride: int) -> SampleRequest:
    """The request with sizes that the model can make; warns of what it leaves out or changes."""
    for idle in entry.idle:
        log.warning("%s: %s.", entry.place, idle)
    asked = replace(default, **entry.fields)
    sized = replace(asked, width=_rounded(asked.width, stride), height=_rounded(asked.height, stride))
    if sized != asked:
        log.warning(
            "%s: %dx%d is rounded to %dx%d, multiples of %d.",
            *(entry.place, asked.width, asked.height, sized.width, sized.height, stride),
        )
    return sized


def _rounded(size: int, stride: int) -> int:
    return max(stride, size - size % stride)
