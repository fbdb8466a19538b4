"""`${key}` in a value stands for the value of another key; every other `${` is text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from library.config.values import shown

REFERENCE = re.compile(r"\$\{(\w+)\}")
BEFORE_BRACE = re.compile(r"(?<!\\)(\\*)\$\{(?:(\w+)\})?")

MOST_WORK = 10_000
"""Characters to go through to resolve a value. References to references double it at each level, so that a page of text could fill
the memory of any machine."""


def interpolated(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Resolve the references among `values`, through OmegaConf.

    Args:
        values: key -> value as written.
        defaults: every key there is -> its value when nothing sets it.

    Returns:
        key -> value, without those that could not be resolved; key -> why, for those.
    """
    referring = [key for key, value in values.items() if _refers(value, defaults)]
    resolved = dict(values)
    if not referring:
        return resolved, {}
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    tree = OmegaConf.create(
        {**escaped({**defaults}), **{key: escaped(value, defaults) for key, value in values.items()}}
    )
    failed = {}
    work: dict[str, float] = {}
    for key in referring:
        try:
            _refuse_endless(_work(key, values, defaults, work))
            found = tree[key]
            resolved[key] = OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
        except (OmegaConfBaseException, RecursionError, ValueError) as error:
            del resolved[key]
            failed[key] = f"{key} = {shown(values[key])}: {str(error).splitlines()[0]}."
    return resolved, failed


def _refuse_endless(work: float) -> None:
    if work == math.inf:
        raise ValueError("the keys refer to one another in a circle")
    if work > MOST_WORK:
        raise ValueError(f"comes to a text of more than {MOST_WORK} characters")


def escaped(value: Any, keep: Collection[str] = ()) -> Any:
    """The value with OmegaConf's escapes, so that it reads only references to the keys in `keep`."""
    return _in_texts(value, lambda text: BEFORE_BRACE.sub(lambda match: _escape(match, keep), text))


def _escape(match: re.Match[str], keep: Collection[str]) -> str:
    backslashes, name = match[1] * 2, match[2]
    if name is None:
        return backslashes + "\\${"
    return backslashes + ("${" if name in keep else "\\${") + name + "}"


def _work(key: str, values: Mapping[str, Any], defaults: Mapping[str, Any], known: dict[str, float]) -> float:
    """Characters that are read to resolve a key, infinite where it leads into a circle; `known` holds what is computed already."""
    if key not in known:
        known[key] = math.inf
        texts = list(_texts(values.get(key, defaults[key])))
        named = [name for text in texts for name in REFERENCE.findall(text) if name in defaults]
        known[key] = sum(map(len, texts)) + sum(_work(name, values, defaults, known) for name in named)
    return known[key]


def _refers(value: Any, keys: Collection[str]) -> bool:
    return any(name in keys for text in _texts(value) for name in REFERENCE.findall(text))


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def _in_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _in_texts(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_in_texts(item, change) for item in value]
    return change(value) if isinstance(value, str) else value
