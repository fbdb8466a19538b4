"""sd-scripts' options (the facts stand in facts.toml) and what becomes of each here."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from library.config.catalog import Declared, by_any_name, catalog
from library.config.spellings import FLAGS, GUI_EXTRAS, NEEDLESS, OF_OTHER_FAMILIES, ONLY_VALUE, REFUSED, STAND_INS
from library.config.values import shown

FACTS = Path(__file__).with_suffix(".toml")

HANDLED_FIRST = {"config_file": "`--config`, with or without .toml."}
"""Options that are taken from the command line before any other."""

OTHER_DEFAULTS: dict[str, str] = {
    "caption_extension": "whichever of .caption and .txt stands beside a picture",
    "log_tracker_name": "the name that sd-scripts gives where none is set",
    "log_with": "the log costs next to nothing, and its loss curve is what tells how a run went; without logging_dir it is in output_dir",
    "lr_scheduler_min_lr_ratio": "nothing is left of the rate in the end, the same as unset",
    "max_data_loader_n_workers": "the result is the same; processes of their own pay only where pictures are changed each time",
    "network_dim": "what sd-scripts' networks take where it is unset",
    "network_module": "sd-scripts stops where none is named",
    "output_dir": "sd-scripts stops where none is named",
    "output_name": "the name that sd-scripts gives where none is set",
    "pretrained_model_name_or_path": "without a model and data the embedded demo is trained; sd-scripts stops",
    "resolution": "sd-scripts stops where none is set",
    "v2": "recognised from the weights",
    "v_parameterization": "recognised where the model says it, else false",
}
"""Options whose default is not sd-scripts', each with the reason."""

NOTES: dict[str, str] = {
    "cache_latents_to_disk": "Found by content, in cache_dir: sd-scripts' .npz files beside the pictures are neither read nor written.",
    "cache_text_encoder_outputs": "For SD 1.x and 2.x too. It goes together with caption_dropout_rate.",
    "clip_skip": "1 to 12. It has no effect with SDXL, and none should be set with SD 2.x; a warning says so.",
    "fp8_base": "The text encoders stay in the run's precision (quantize_text_encoders packs them too).",
    "gradient_accumulation_steps": "Short batches count by their samples, so that each sample weighs the same.",
    "log_with": "`wandb` and `all` are `tensorboard`, with a warning: `wandb sync --sync-tensorboard FOLDER` takes its log over.",
    "lr_scheduler_type": "A dotted path; it counts where lr_scheduler stands beside it.",
    "lr_warmup_steps": "Steps, or a share of the run: 0.1 or 10%. With constant and adafactor too, where sd-scripts stops.",
    "max_token_length": "75 is understood too.",
    "mixed_precision": "The type of the frozen model; the network's own weights stay fp32.",
    "network_module": "See the networks below.",
    "noise_offset": "Together with multires_noise_iterations it warns; both are used, in sd-scripts' order.",
    "optimizer_type": "Any case; or a dotted path such as bitsandbytes.optim.AdEMAMix8bit.",
    "persistent_data_loader_workers": "Workers always live as long as the run.",
    "resume": "A state folder of this project, or `latest`; sd-scripts' own states hold pickles and are not read: use network_weights.",
    "seed": "Unset: drawn and told. The draws are other ones than sd-scripts' at the same seed.",
    "text_encoder_lr": "One value, or one for each text encoder; 0 leaves the text encoders out.",
    "train_data_dir": "Folders without a number, and pictures directly in it, are used with 1 repeat; sd-scripts leaves them out.",
    "dataset_repeats": "As there, also for subsets of dataset tables that set no num_repeats.",
    "unet_lr": "0 leaves the UNet out.",
    "validation_split": "Pictures are told apart by their content: what one dataset holds out, none trains.",
    "weighted_captions": "With SDXL too.",
    "xformers": "Where that package is not installed, a warning is told and sdpa is used.",
}
"""Where an option of the same name behaves otherwise, or more can be said."""


@dataclass(frozen=True)
class Fate:
    """What becomes of an option of sd-scripts."""

    kind: Literal["option", "alias", "flag", "one value", "needless", "refused"]
    says: str
    """In Markdown: what it is here, or why it is not."""


@cache
def facts() -> Mapping[str, Any]:
    """The tables of facts.toml."""
    return tomllib.loads(FACTS.read_text(encoding="utf-8"))


def all_options() -> dict[str, dict[str, Any]]:
    """Option of either script -> its type, and its default where it has one."""
    return {**facts()["train_network"], **facts()["sdxl_train_network"]}


def is_known(name: str) -> bool:
    """Whether a key is understood: as an option, under another name, or as one that is left out with a reason."""
    tables = (FLAGS, GUI_EXTRAS, NEEDLESS, REFUSED, ONLY_VALUE, OF_OTHER_FAMILIES, HANDLED_FIRST)
    return name in by_any_name(catalog()) or any(name in table for table in tables)


def fate(name: str) -> Fate | None:
    """What becomes of an option; None where nobody has said."""
    declared = by_any_name(catalog()).get(name)
    note = NOTES.get(name, "")
    if name in HANDLED_FIRST:
        return Fate("alias", HANDLED_FIRST[name])
    if declared is not None and declared.key == name:
        return Fate("option", " ".join(filter(None, (_default_note(declared), note))))
    if declared is not None:
        return Fate("alias", f"`{declared.key}`. {note}".strip())
    if name in FLAGS:
        key, value = FLAGS[name]
        return Fate("flag", f'`{key} = "{value}"`. {note}'.strip())
    if name in ONLY_VALUE:
        only, why = ONLY_VALUE[name]
        others = " and ".join(f"`{shown(value)}`" for value in STAND_INS.get(name, ()))
        also = f" {others} become it, with a warning." if others else ""
        return Fate("one value", f'`"{only}"` alone: {why}.{also}')
    if name in NEEDLESS:
        return Fate("needless", f"{NEEDLESS[name]}.")
    if name in REFUSED:
        return Fate("refused", f"{REFUSED[name]}.")
    return None


def _default_note(declared: Declared) -> str:
    if declared.key not in OTHER_DEFAULTS:
        return ""
    ours = "unset" if declared.default in (None, "") else f"`{shown(declared.default)}`"
    return f"Default {ours}: {OTHER_DEFAULTS[declared.key]}."
