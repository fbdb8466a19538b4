"""Prompts and captions from templates: `{trigger}, {shot}, {pose}`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from string import Formatter

from library.core.errors import did_you_mean


def template_mistake(template: str, fields: Collection[str]) -> str:
    """What is wrong with a template, or "".

    Args:
        fields: what may stand in braces.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError:
        return "has a brace without its partner; {{ and }} stand for braces."
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if name not in fields:
            return f"has the unknown field {{{name}}}.{did_you_mean(name, fields)} Fields: {', '.join(fields)}."
        if form or conversion:
            return f"has more than a name in the braces of {{{name}}}."
    return ""


def filled(template: str, values: Mapping[str, str]) -> str:
    """The template with the values in place; a part between commas that has become empty is dropped."""
    tags = [" ".join(tag.split()) for tag in template.format_map(values).split(",")]
    return ", ".join(tag for tag in tags if tag)
