"""`${key}` in a value stands for the value of another key; every other `${` is text."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from library.config.values import shown

REFERENCE = re.compile(r"\$\{(\w+)\}")
BEFORE_BRACE = re.compile(r"(\\*)\$\{(?:(\w+)\})?")


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
    for key in referring:
        try:
            found = tree[key]
            resolved[key] = OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
        except (OmegaConfBaseException, RecursionError):
            del resolved[key]
            failed[key] = f"{key} = {shown(values[key])}: the keys refer to one another in a circle."
    return resolved, failed


def escaped(value: Any, keep: Collection[str] = ()) -> Any:
    """The value with OmegaConf's escapes, so that it reads only references to the keys in `keep`."""
    return _in_texts(value, lambda text: BEFORE_BRACE.sub(lambda match: _escape(match, keep), text))


def _escape(match: re.Match[str], keep: Collection[str]) -> str:
    backslashes, name = match[1] * 2, match[2]
    if name is None:
        return backslashes + "\\${"
    return backslashes + ("${" if name in keep else "\\${") + name + "}"


def _refers(value: Any, keys: Collection[str]) -> bool:
    if isinstance(value, Mapping):
        return any(_refers(item, keys) for item in value.values())
    if isinstance(value, list):
        return any(_refers(item, keys) for item in value)
    return isinstance(value, str) and any(name in keys for name in REFERENCE.findall(value))


def _in_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _in_texts(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_in_texts(item, change) for item in value]
    return change(value) if isinstance(value, str) else value
