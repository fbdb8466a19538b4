"""How an option is declared: a typed dataclass field, its doc string beneath, and here what a type cannot say."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import field
from typing import Any, Literal

from library.core.errors import did_you_mean
from library.core.registry import Registry


def option(
    default: Any = None,
    *,
    factory: Callable[[], Any] | None = None,
    parse: Callable[[Any], Any] | None = None,
    aliases: tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    zero_is_unset: bool = False,
    path: Literal["input", "output"] | None = None,
) -> Any:
    """A dataclass field.

    Args:
        default: value when nothing sets it; `factory` makes mutable ones.
        parse: turns the accepted spellings into the field's type; raises ValueError with what is allowed.
        aliases: other names by which configs call it.
        minimum, maximum: allowed range of a number, both included.
        zero_is_unset: 0 means the same as leaving the option out, as sd-scripts' configs are used to.
        path: the option names a file or folder that is read (or a hub name, where the doc string says so), or written.
    """
    metadata = {
        "parse": parse,
        "aliases": aliases,
        "minimum": minimum,
        "maximum": maximum,
        "zero_is_unset": zero_is_unset,
        "path": path,
    }
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def parse_size(value: Any) -> list[int]:
    """`512`, `"768,512"` or `[768, 512]` as [width, height]."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    numbers = [int(part) for part in parts if re.fullmatch(r"\s*\d{1,9}\s*", str(part))]
    if len(numbers) != len(parts):
        numbers = []
    if len(numbers) == 1:
        numbers *= 2
    if len(numbers) != 2 or min(numbers) <= 0:
        raise ValueError('a number such as 512, or width and height as [768, 512] or "768,512"')
    return numbers


def parse_steps(value: Any) -> float:
    """A number of steps, or a share of the run: 100, 0.1, or "10%". Shares are below 1."""
    try:
        if isinstance(value, str) and value.strip().endswith("%"):
            steps = float(value.strip()[:-1]) / 100
            if steps >= 1:
                raise ValueError
        elif isinstance(value, bool):
            raise ValueError
        else:
            steps = float(value)
        if not 0 <= steps < math.inf or (steps > 1 and not steps.is_integer()):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError('a whole number of steps, a share of the run below 1, or a percentage such as "10%"') from None
    return steps


def parse_duration(value: Any) -> float:
    """A time in seconds: "7h30m", "90m", "1d", "01:30:00", or a number of seconds."""
    text = str(value).strip().lower().replace(" ", "")
    units = re.fullmatch(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", text)
    clock = re.fullmatch(r"(\d{1,9}):(\d\d):(\d\d)", text)
    if isinstance(value, bool) or not text:
        pass
    elif units:
        return float(sum(int(number or 0) * size for number, size in zip(units.groups(), (86400, 3600, 60, 1))))
    elif clock:
        return float(sum(int(number) * size for number, size in zip(clock.groups(), (3600, 60, 1))))
    elif re.fullmatch(r"\d{1,9}(\.\d+)?", text):
        return float(text)
    raise ValueError('a time such as "7h30m", "90m", "01:30:00", or a number of seconds')


def parse_numbers(value: Any) -> list[float]:
    """One number or several: `1e-4`, `[1e-4, 5e-5]`, "1e-4,5e-5"."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    try:
        if any(isinstance(part, bool) for part in parts):
            raise ValueError
        return [float(part) for part in parts]
    except (TypeError, ValueError):
        raise ValueError("a number or a list of numbers") from None


def parse_strings(value: Any) -> list[str]:
    """One string or several."""
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) for item in values):
        raise ValueError("a string or a list of strings")
    return values


def parse_arguments(value: Any) -> dict[str, Any]:
    """Arguments of a plugin, as a table or as sd-scripts' list of "key=value"; their types are checked by the plugin."""
    if isinstance(value, dict):
        return dict(value)
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) and "=" in item for item in items):
        raise ValueError('a table {name = value}, or a list ["name=value"]')
    arguments = {key.strip(): text.strip() for key, _, text in (item.partition("=") for item in items)}
    if len(arguments) != len(items):
        raise ValueError("each argument once")
    return arguments


def parse_range(value: Any) -> list[float]:
    """ "1.0,2.0" or [1.0, 2.0]: a range from low to high."""
    numbers = parse_numbers(value)
    if len(numbers) != 2 or numbers[0] > numbers[1]:
        raise ValueError('two numbers from low to high, such as "1.0,2.0"')
    return numbers


def named_in(registry: Registry) -> Callable[[Any], str]:
    """A parser of names of plugins: a known one in upper or lower case, or a dotted path to one's own."""

    def parse(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError("a name in quotes")
        known = registry.names()
        same = [name for name in known if name.lower() == value.lower()]
        if not same and "." not in value:
            near = did_you_mean(value, known).strip().replace("Did", "did")
            suggestion = f" ({near})" if near else ""
            raise ValueError(f"{', '.join(known)}, or a dotted path to your own{suggestion}")
        return same[0] if same else value

    return parse
