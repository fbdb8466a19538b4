"""What --help and --explain print."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from library.config.catalog import Declared, catalog, declarations
from library.config.field_docs import field_docs
from library.config.findings import Findings
from library.config.places import preset_names
from library.config.resolved import as_flat_dict
from library.config.schema import Config
from library.config.values import shown, type_name

BEGINNING = """\
Train a LoRA.

  accelerate launch train_network.py --config presets/character.toml
  accelerate launch train_network.py --config presets/character.toml --extends memory/8gb \\
      --pretrained_model_name_or_path sd15.safetensors --train_data_dir training_data/alexander --output_name alexander

Every option is a key of the TOML file and a flag of the command line, which wins. Flags: --flag, --flag false, --no-flag.
Lists: --network_args conv_dim=8 conv_alpha=4

  --config FILE        a preset or your own file (--config_file too); .toml may be left out
  --extends FILE ...   presets laid over it
  --explain [WORD]     show every value and where it comes from, and stop
  --help [WORD]        this page, or the options that WORD appears in

Presets: {presets}"""


def help_text(search: str = "") -> str:
    """The options by group with their types, defaults and docs; with `search`, those it appears in."""
    width = min(shutil.get_terminal_size().columns, 120)
    blocks = [] if search else [_beginning(width)]
    for group, group_type in get_type_hints(Config).items():
        docs = field_docs(group_type)
        entries = [
            _entry(declared, docs.get(key, ""), width)
            for key, declared in declarations(group_type, group).items()
            if _matches(search, key, docs.get(key, ""), *declared.aliases)
        ]
        if entries:
            blocks.append("\n".join([_heading(group, group_type, width), *entries]))
    return "\n\n".join(blocks) if blocks else f"No option's name or description holds '{search}'."


def explanation(config: Config, sources: Mapping[str, str], findings: Findings, search: str = "") -> str:
    """Every value with where it comes from, changed ones marked; warnings and notices first."""
    told = [f"note: {notice}" for notice in findings.notices] + [f"warning: {text}" for text in findings.warnings]
    blocks = ["\n".join(told)] if told else []
    values = as_flat_dict(config)
    blocks.append("* differs from its default")
    for field in fields(Config):
        keys = [key for key, declared in catalog().items() if declared.group == field.name and _matches(search, key)]
        if keys:
            blocks.append("\n".join([f"[{field.name}]", *_explained(keys, values, sources)]))
    return "\n\n".join(blocks)


def _explained(keys: list[str], values: Mapping[str, Any], sources: Mapping[str, str]) -> Iterator[str]:
    texts = {key: f"{key} = {'(unset)' if values[key] is None else shown(values[key])}" for key in keys}
    column = min(52, max(map(len, texts.values())))
    for key, text in texts.items():
        mark = "*" if values[key] != catalog()[key].default else " "
        yield f"{mark} {text.ljust(column)}  {sources[key]}"


def _beginning(width: int) -> str:
    presets = textwrap.fill(", ".join(preset_names()), width, initial_indent=" " * 9, subsequent_indent=" " * 9)
    return BEGINNING.format(presets=presets.strip())


def _heading(group: str, group_type: type, width: int) -> str:
    about = " ".join((group_type.__doc__ or "").split())
    return f"[{group}]\n" + textwrap.fill(about, width)


def _entry(declared: Declared, doc: str, width: int) -> str:
    default = "" if declared.default is None else f", default {shown(declared.default)}"
    first = f"  --{declared.key}  ({type_name(declared.annotation)}{default})"
    body = textwrap.fill(doc, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return f"{first}\n{body}" if doc else first


def _matches(search: str, *texts: str) -> bool:
    word = search.lower().strip().lstrip("-").replace("-", "_")
    return any(word in text.lower() for text in texts)
