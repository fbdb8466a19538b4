"""Checks of what the configuration names: models, data, files, folders, installed packages."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from library.config.conflicts import Conflict, Situation

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
WEIGHTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
PROMPT_FILES = (".txt", ".toml", ".json")
FORBIDDEN_IN_NAMES = set('<>:"/\\|?*') | {chr(code) for code in range(32)}


def model_and_data(situation: Situation) -> Iterator[Conflict]:
    """One without the other; with neither, the embedded demo is used, and there is nothing to complain of."""
    config = situation.config
    model, data = config.model.pretrained_model_name_or_path, config.data
    sources = {
        "train_data_dir": data.train_data_dir,
        "dataset_config": data.dataset_config,
        "in_json": data.in_json,
        "datasets": data.datasets,
    }
    given = tuple(key for key, value in sources.items() if value)
    if given and not model:
        yield Conflict(
            ("pretrained_model_name_or_path", *given),
            "pretrained_model_name_or_path is missing: training data are named, but no base model.",
        )
    if model and not given:
        yield Conflict(
            ("train_data_dir", "pretrained_model_name_or_path"),
            "train_data_dir is missing: a base model is named, but no training data "
            "(dataset_config, in_json or [[datasets]] tables would do too).",
        )
    if len({"datasets", "dataset_config"} & set(given)) == 2:
        yield Conflict(("datasets", "dataset_config"), "datasets are given both here and in dataset_config: keep one.")


def models(situation: Situation) -> Iterator[Conflict]:
    """Models that are neither files or folders here nor names on the hub."""
    config = situation.config
    for key in ("pretrained_model_name_or_path", "vae", "tokenizer"):
        name = getattr(config.model, key)
        if name and not Path(name).exists() and (why := _no_hub_name(name)):
            yield Conflict(
                (key,), f'{key} = "{name}": no such file or folder (looked for it at {Path(name).resolve()}){why}.'
            )


def files(situation: Situation) -> Iterator[Conflict]:
    """Files to read that are not there, and prompts in a file of another kind."""
    config = situation.config
    named: dict[str, list[str | None]] = {
        "network_weights": [config.network.network_weights],
        "base_weights": [*config.network.base_weights],
        "sample_prompts": [config.sampling.sample_prompts],
    }
    for key, names in named.items():
        for name in names:
            if name and not Path(name).is_file():
                yield Conflict((key,), f'{key} = "{name}": no such file (looked for it at {Path(name).resolve()}).')
    prompts = config.sampling.sample_prompts
    if prompts and not prompts.lower().endswith(PROMPT_FILES):
        yield Conflict(("sample_prompts",), f'sample_prompts = "{prompts}": expected a .txt, .toml or .json file.')


def folders(situation: Situation) -> Iterator[Conflict]:
    """Folders to read that are not there."""
    config = situation.config
    masks, resume = config.images.conditioning_data_dir, config.saving.resume
    if masks and not Path(masks).is_dir():
        yield Conflict(("conditioning_data_dir",), f'conditioning_data_dir = "{masks}": no such folder.')
    if resume and resume != "latest" and not Path(resume).is_dir():
        yield Conflict(
            ("resume",),
            f'resume = "{resume}": no such state folder (looked for it at {Path(resume).resolve()}). '
            'State folders end in -state; "latest" takes the newest in output_dir.',
        )


def outputs(situation: Situation) -> Iterator[Conflict]:
    """A name that no file can have, and folders to write to that are files."""
    config = situation.config
    name = config.saving.output_name
    wrong = sorted(set(name) & FORBIDDEN_IN_NAMES)
    if not name.strip() or name.endswith((".", " ")):
        yield Conflict(("output_name",), f'output_name = "{name}": expected a file name without its ending.')
    elif wrong:
        shown = " ".join(repr(character)[1:-1] for character in wrong)
        yield Conflict(
            ("output_name",), f'output_name = "{name}": a file name cannot hold {shown}; folders go in output_dir.'
        )
    for key, folder in (
        ("output_dir", config.saving.output_dir),
        ("logging_dir", config.logging.logging_dir),
        ("cache_dir", config.data.cache_dir),
    ):
        if folder and Path(folder).exists() and not Path(folder).is_dir():
            yield Conflict((key,), f'{key} = "{folder}": this is a file, not a folder.')


def packages(situation: Situation) -> Iterator[Conflict]:
    """Options that need a package which is not installed."""
    config = situation.config
    if config.model.attention == "xformers" and importlib.util.find_spec("xformers") is None:
        yield Conflict(
            ("attention",),
            'attention = "xformers": xformers is not installed. Install it (pip install xformers), '
            'or take attention = "sdpa", which is as fast on most cards.',
        )
    for key, name in (
        ("network_module", config.network.network_module),
        ("optimizer_type", config.optimizer.optimizer_type),
        ("lr_scheduler", config.schedule.lr_scheduler),
    ):
        package = name.partition(".")[0]
        if "." in name and (not package.isidentifier() or importlib.util.find_spec(package) is None):
            yield Conflict((key,), f'{key} = "{name}": no package "{package}" is installed in this environment.')


def _no_hub_name(name: str) -> str:
    """Why the name cannot be one on the hub either, '' where it can."""
    if Path(name).is_absolute() or name.startswith((".", "~")) or "\\" in name or name.lower().endswith(WEIGHTS):
        return "; it does not read as a hub name either"
    return "" if HUB_NAME.fullmatch(name) else "; a hub name would be owner/name"


PLACE_CHECKS: tuple[Callable[[Situation], Iterable[Conflict]], ...] = (
    model_and_data,
    models,
    files,
    folders,
    outputs,
    packages,
)
