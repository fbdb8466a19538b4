"""A configuration as a preset: what differs from the defaults, in sections, each option with its documentation."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from library.config.catalog import catalog
from library.config.field_docs import field_docs
from library.config.resolved import as_flat_dict, dataset_text, written
from library.config.schema import Config

WIDTH = 118


def preset_text(config: Config, beginning: Sequence[str] = ()) -> str:
    """TOML that `load_config` reads as exactly this configuration.

    Args:
        beginning: lines of the comment at its top.
    """
    changed = {key: value for key, value in as_flat_dict(config).items() if value != catalog()[key].default}
    tables = {key: changed.pop(key) for key in ("general", "datasets") if changed.get("datasets") and key in changed}
    blocks = ["\n".join(f"# {line}".rstrip() for line in beginning)] if beginning else []
    for group in fields(config):
        docs = field_docs(type(getattr(config, group.name)))
        keys = [key for key in changed if catalog()[key].group == group.name]
        if keys:
            blocks.append(
                "\n".join([f"[{group.name}]", *(_entry(key, changed[key], docs.get(key, "")) for key in keys)])
            )
    blocks += [dataset_text({key: value}).strip() for key, value in tables.items()]
    return "\n\n".join(blocks) + "\n"


def _entry(key: str, value: Any, doc: str) -> str:
    """A key with the first sentence of its documentation above it."""
    comment = textwrap.wrap(_first_sentence(doc), WIDTH, initial_indent="# ", subsequent_indent="# ")
    line = written({"": {key: value}}).split("\n", 1)[1].strip()
    return "\n".join([*comment, line])


def _first_sentence(doc: str) -> str:
    end = re.search(r"\. (?=[A-Z`])", doc)  # "et al. 2023" goes on
    return doc if end is None else doc[: end.start() + 1]
