"""Writes docs/configuration.md from the options' declarations:  python -m library.config.reference"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import get_type_hints

from library.config.catalog import Declared, declarations
from library.config.field_docs import field_docs
from library.config.places import PROJECT_ROOT
from library.config.schema import Config
from library.config.schema.data import SubsetConfig
from library.config.values import shown, type_name

PAGE = PROJECT_ROOT / "docs" / "configuration.md"

BEGINNING = """\
# Configuration

This page is generated from the options' declarations (`python -m library.config.reference`); edit those instead.

A run is configured by a TOML file, by presets that it builds on, and by the command line:

    accelerate launch train_network.py --config my_character.toml --extends memory/8gb --max_train_steps 1500

**Keys.** Each option has one name: as a key in the file, as a flag on the command line, and on this page. Keys are unique, so
sections are for the reader's eye: a key may stand at the top or in a section of any name. Whole numbers may stand where numbers
are meant. An empty text (`""`) unsets an option that may be unset.

**What wins.** Later wins: the presets in `extends = ["..."]` in their order, then the file itself, then presets named by
`--extends` on the command line, then the options on the command line. A list or table is replaced as a whole. Names in `extends`
are looked for beside the file, then in `presets/`; `.toml` may be left out. `--explain` shows every value with the file and line
that it comes from, `--explain lr` those whose name holds "lr".

**The command line.** `--key value`; `--flag`, `--flag false` or `--no-flag`; lists as `--network_args conv_dim=8 conv_alpha=4`.
`--config_file` is understood for `--config`.

**Mistakes.** Unknown keys, values that do not fit, options that contradict one another, files that are missing: all are told at
once, with file, line and a suggestion, before anything is loaded. `unknown_keys = "warn"` lets unknown keys pass with a warning.
A setting of yours that has no effect, because of what else is set, is told as a warning at the start and at the end.

**References.** `${key}` in a value stands for the value of another option: `output_dir = "output/${output_name}"`. Any other `${`
is text.

**Paths.** `~` is the home folder. Relative paths start at the current directory; in the project's own presets, paths to read
start at the project's folder.

**The demo.** A run that names neither a base model nor training data (none of `pretrained_model_name_or_path`,
`train_data_dir`, `dataset_config`, `in_json`, `[[datasets]]`) trains the embedded demo character on the embedded demo model.
`presets/demo.toml` is then laid over all files, under the options of the command line, and the run says so. One without the other
is an error.

**The resolved configuration** is saved beside the LoRA as `name.config.toml`. It holds every value and reproduces the run:
`--config output/name/name.config.toml`.
"""

TABLES = """\
## Dataset tables

`[general]`, `[[datasets]]` and `[[datasets.subsets]]` stand in the configuration, or in a TOML or JSON file of their own
(`dataset_config`). A subset's value wins over its dataset's, that over `[general]`, that over the configuration.

    [general]
    resolution = 768
    shuffle_caption = true

    [[datasets]]
    batch_size = 2

    [[datasets.subsets]]
    image_dir = "pictures/portraits"
    num_repeats = 4

    [[datasets.subsets]]
    metadata_file = "pictures/rest.jsonl"

Options of **buckets** stand in `[general]` and `[[datasets]]`; those of **captions** and **images**, and `trigger_word` and
`class_word`, at all three levels; so do these, apart from `image_dir`, `metadata_file` and `is_reg`, which belong to subsets:
"""

FOLDERS = """\
## Picture folders

`train_data_dir` and `reg_data_dir` hold folders named `{repeats}_{class tokens}`: `10_mychar man` is used with 10 repeats, and
"mychar man" is the caption of pictures that have no caption file. A folder without a number, and pictures directly in
`train_data_dir`, are used with 1 repeat. Folders within those folders are not looked into.
"""


FROM_SD_SCRIPTS = """\
## Coming from sd-scripts

Configs of sd-scripts run as they are; [from-sd-scripts.md](from-sd-scripts.md) says of each of its options what becomes of it.
"""


def reference_page() -> str:
    """The whole page."""
    groups = [_group(name, group_type) for name, group_type in get_type_hints(Config).items()]
    tables = TABLES + "\n" + _table(declarations(SubsetConfig), field_docs(SubsetConfig))
    return "\n".join([BEGINNING, *groups, tables, FOLDERS, FROM_SD_SCRIPTS])


def _group(name: str, group_type: type) -> str:
    about = " ".join((group_type.__doc__ or "").split())
    return f"## {name}\n\n{about}\n\n{_table(declarations(group_type, name), field_docs(group_type))}"


def _table(options: Mapping[str, Declared], docs: Mapping[str, str]) -> str:
    rows = (
        (f"`{key}`", type_name(declared.annotation), _default(declared), docs.get(key, "") + _other_names(declared))
        for key, declared in options.items()
    )
    return table_of(("option", "type", "default", "what it does"), rows)


def _other_names(declared: Declared) -> str:
    return f" `{'`, `'.join(declared.aliases)}` is understood too." if declared.aliases else ""


def _default(declared: Declared) -> str:
    return "unset" if declared.default is None else f"`{shown(declared.default)}`"


def table_of(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [heads, ("---",) * len(heads), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(reference_page(), encoding="utf-8", newline="\n")
