"""Writes docs/from-sd-scripts.md from the options' declarations and sd-scripts' facts:  python -m library.config.sd_scripts.page"""

from __future__ import annotations

from collections.abc import Iterator

from library.config.dataset_tables import dataset_keys, subset_keys
from library.config.places import PROJECT_ROOT
from library.config.reference import table_of
from library.config.sd_scripts.facts import Fate, all_options, facts, fate
from library.config.spellings import GUI_EXTRAS, NEEDLESS_NETWORK_ARGS, OF_OTHER_FAMILIES
from library.config.values import shown

PAGE = PROJECT_ROOT / "docs" / "from-sd-scripts.md"

WORDS = {
    "option": "the same option",
    "alias": "another name of",
    "flag": "stands for",
    "one value": "one value",
    "needless": "not needed; a warning says why",
    "refused": "**refused**",
}

BEGINNING = """\
# Coming from sd-scripts

This page is generated (`python -m library.config.sd_scripts.page`); edit what it is made from instead.

Configs, command lines, dataset files and folders of [sd-scripts](https://github.com/kohya-ss/sd-scripts) that train LoRAs of
SD 1.x, SD 2.x and SDXL are used as they are:

    accelerate launch train_network.py --config_file my_old_config.toml

There is one script for all of these families, which are recognised from the weights: where you started `sdxl_train_network.py`,
start `train_network.py`. To see first what becomes of a config, and to get it as a preset of this project:

    dojo from-sd-scripts my_old_config.toml --out my_character.toml
    dojo from-sd-scripts "accelerate launch sdxl_train_network.py --pretrained_model_name_or_path=... --xformers"

It reads TOML configs, the TOML that kohya's GUI starts a run with, the JSON that this GUI saves, the TOML of LoRA Easy Training
Scripts, and command lines with line ends of bash, cmd and PowerShell, from a file or in quotes; variables that such a file sets
itself are filled in. It needs neither model nor pictures.

## What is the same

**Options** have sd-scripts' names, types and defaults; the tables below list all of them. Each is an option here, another name of
one, accepted with a warning that says why nothing is lost, or refused with what to do instead. A key that nobody knows is an error
with a suggestion, where sd-scripts passes over it (`unknown_keys = "warn"` does that here).

**Data.** `train_data_dir` and `reg_data_dir` with folders such as `10_mychar man`, caption files, metadata JSON and JSONL
(`in_json`, `metadata_file`), dataset TOML and JSON (`dataset_config`, or the same tables in the config itself), masks, the order in
which captions are changed, and the sizes of buckets.

**Mathematics.** Loss, noise and weightings follow the same formulas; networks start, scale and save alike.

**Files.** Names of LoRA files, tensors and metadata, of sample pictures and TensorBoard's curves. LoRAs that sd-scripts trained
continue here (`network_weights`, `dim_from_weights`) and are merged (`base_weights`).

## What is different on purpose

- Nothing is skipped silently: what has no effect, contradicts or is missing is told at the start, all at once.
- A seed gives other draws than in sd-scripts, and the same ones whatever the number of processes or workers. A resumed run continues
  as if it had not stopped. States of sd-scripts hold pickles and are not read; go on from its LoRA file with `network_weights`.
- Regularisation pictures are repeated until they are as many as the training pictures, and surplus ones are left out, as in
  sd-scripts; short batches count by their samples.
- Pictures directly in `train_data_dir`, and folders without a number, are used with 1 repeat.
- Latents and text encodings are cached by content in one place (`cache_dir`), not beside the pictures, and are never stale.
- The network's weights stay fp32 in every precision; files are safetensors; checkpoints that are pickles need `allow_pickle`.
- There is no upload, no wandb and no DeepSpeed.
"""

NETWORKS = """\
## Networks

`network_module` takes sd-scripts' names: `networks.lora`, `networks.lora_fa`, `networks.dylora`, `networks.loha`, `networks.lokr` and
`networks.oft`; `lycoris.kohya` is LyCORIS' own module, once `pip install lycoris-lora` has installed it. More networks, and which to
take for what, are in [networks.md](networks.md). `network_args` is a list of `"name=value"` or a table; a name that a network does
not know is an error. sd-scripts' networks have these:
"""

ARGUMENTS = """\
`optimizer_args` and `lr_scheduler_args` go to the optimizer and the schedule as in sd-scripts, and are checked first: unknown names
and values that do not fit are errors.
"""

DATASETS = """\
## Dataset tables

All keys of `dataset_config` are options here, at the levels where sd-scripts has them: [general], [[datasets]] and
[[datasets.subsets]]. Keys of a level that stand a level higher count for all below. `custom_attributes = {diff_output_preservation = true}` makes the
frozen model's own prediction the target of those pictures, as in sd-scripts; here its text encoders are without the LoRA too.
"""

GUIS = """\
## GUIs

kohya's GUI (bmaltais) starts each run with a TOML file in the output folder, `config_lora-....toml`: it is a config as it is. Its
presets (.json) are for `dojo from-sd-scripts`. The GUI writes some keys that no trainer reads; they give a warning:
"""

FAMILIES = """\
Keys of models that are not trained here (FLUX, SD 3 and others) are errors where they are set: {keys}.
"""


def page() -> str:
    """The whole page."""
    names = facts()
    both = _options("Options of train_network.py and sdxl_train_network.py", names["train_network"])
    sdxl = _options("Further options of sdxl_train_network.py", names["sdxl_train_network"])
    extras = table_of(("key", "what counts"), ((f"`{name}`", f"{why}.") for name, why in GUI_EXTRAS.items()))
    others = FAMILIES.format(keys=", ".join(f"`{name}`" for name in sorted(OF_OTHER_FAMILIES)))
    networks = table_of(("network_module", "network_args"), _network_rows())
    datasets = table_of(("where", "keys"), _dataset_rows())
    return "\n".join([BEGINNING, both, sdxl, NETWORKS, networks, ARGUMENTS, DATASETS, datasets, GUIS, extras, others])


def _options(title: str, names: dict[str, dict[str, object]]) -> str:
    rows = []
    for name, fact in names.items():
        found = fate(name)
        assert found is not None, f"what becomes of {name} is said nowhere"
        rows.append((f"`{name}`", _their_default(fact), _here(found)))
    return f"## {title}\n\n{table_of(('option', 'default in sd-scripts', 'here'), rows)}"


def _their_default(fact: dict[str, object]) -> str:
    if fact["type"] == "flag":
        return "off"
    return f"`{shown(fact['default'])}`" if fact.get("default", "") != "" else "unset"


def _here(found: Fate) -> str:
    joined = " " if found.kind in ("alias", "flag") else ". " if found.kind == "option" else ": "
    return joined.join(filter(None, (WORDS[found.kind], found.says)))


def _network_rows() -> Iterator[tuple[str, str]]:
    for module, names in facts()["network_args"].items():
        told = (f"`{name}`" + (" (not needed)" if name in NEEDLESS_NETWORK_ARGS else "") for name in names)
        yield f"`{module}`", ", ".join(told)


def _dataset_rows() -> Iterator[tuple[str, str]]:
    levels = facts()["dataset_keys"]
    upper, lower = dataset_keys(), subset_keys()
    assert all(name in upper for name in (*levels["general_and_datasets"], *levels["all_levels"]))
    assert all(name in lower for name in (*levels["all_levels"], *levels["subsets"]))
    words = {
        "general_and_datasets": "[general], [[datasets]]",
        "all_levels": "all three",
        "subsets": "[[datasets.subsets]]",
    }
    for level, where in words.items():
        yield where, ", ".join(f"`{name}`" for name in levels[level])


if __name__ == "__main__":
    assert all(map(fate, all_options()))
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
