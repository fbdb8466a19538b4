"""Files that GUIs save in forms of their own, as sd-scripts' keys: kohya's GUI (JSON) and LoRA Easy Training Scripts (TOML)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from library.config.sd_scripts.command_text import split_words
from library.config.sd_scripts.facts import is_known
from library.core.errors import UserError

RENAMED = {
    "max_resolution": "resolution",
    "optimizer": "optimizer_type",
    "lora_network_weights": "network_weights",
    "sdxl_cache_text_encoder_outputs": "cache_text_encoder_outputs",
    "sdxl_no_half_vae": "no_half_vae",
}
"""Keys of kohya's GUI -> sd-scripts' option."""

OFT = ("constrain", "rescaled", "use_scalar", "rank_dropout_scale", "train_norm")
DECOMPOSED = ("dora_wd", "use_scalar", "rank_dropout_scale", "train_norm", "bypass_mode")

LYCORIS: dict[str, tuple[str, tuple[str, ...]]] = {
    "LyCORIS/BOFT": ("boft", OFT),
    "LyCORIS/Diag-OFT": ("diag-oft", OFT),
    "LyCORIS/DyLoRA": ("dylora", ("unit", "use_tucker", "rank_dropout_scale", "train_norm")),
    "LyCORIS/GLoRA": ("glora", ("rank_dropout_scale", "train_norm")),
    "LyCORIS/LoCon": ("locon", (*DECOMPOSED, "use_tucker")),
    "LyCORIS/LoHa": ("loha", (*DECOMPOSED, "use_tucker")),
    "LyCORIS/LoKr": ("lokr", (*DECOMPOSED, "factor", "decompose_both", "use_cp")),
    "LyCORIS/Native Fine-Tuning": ("full", ("use_tucker", "use_scalar", "train_norm")),
    "LyCORIS/iA3": ("ia3", ("train_on_input",)),
}
"""Types of kohya's GUI -> LyCORIS' algorithm, and the options that the GUI hands to it."""

BY_BLOCK = (
    "down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold", "block_dims", "block_alphas", "conv_block_dims",
    "conv_block_alphas",
)  # fmt: skip
DROPOUTS = ("rank_dropout", "module_dropout")
CONV = ("conv_dim", "conv_alpha")

KOHYA: dict[str, tuple[str, tuple[str, ...]]] = {
    "Standard": ("networks.lora", (*BY_BLOCK, *DROPOUTS)),
    "Kohya LoCon": ("networks.lora", (*CONV, *BY_BLOCK, *DROPOUTS)),
    "LoCon": ("networks.lora", (*CONV, *BY_BLOCK, *DROPOUTS)),
    "LoRA-FA": ("networks.lora_fa", (*BY_BLOCK, *DROPOUTS)),
    "Kohya DyLoRA": ("networks.dylora", (*CONV, *BY_BLOCK, *DROPOUTS, "unit")),
}
"""Types of kohya's GUI -> network and its options."""

LAUNCHER = (
    "extra_accelerate_launch_args", "gpu_ids", "main_process_port", "multi_gpu", "num_cpu_threads_per_process", "num_machines",
    "num_processes",
)  # fmt: skip
"""What kohya's GUI hands to `accelerate launch`."""

HANDLED = (
    "LoRA_type", "LyCORIS_preset", "additional_parameters", "epoch", "lr_warmup", "lr_warmup_steps", "noise_offset_type", "sample_prompts", "sdxl", "xformers",
)  # fmt: skip


@dataclass
class Converted:
    """sd-scripts' keys, and what is to be said of the way there."""

    settings: dict[str, Any] = field(default_factory=dict)
    options: list[str] = field(default_factory=list)
    """Words of a command line that the file holds; they count more."""
    told: list[str] = field(default_factory=list)


def is_kohya_preset(content: Mapping[str, Any]) -> bool:
    """Whether a JSON file is what kohya's GUI saves."""
    return any(key in content for key in ("LoRA_type", "max_resolution", "optimizer"))


def from_kohya_preset(content: Mapping[str, Any]) -> Converted:
    """A preset of kohya's GUI, as the TOML that the GUI would start a run with.

    Raises:
        UserError: it is for a family of models that is not trained here.
    """
    for key in ("flux1_checkbox", "sd3_checkbox"):
        if _on(content.get(key)):
            raise UserError(f"{key} is set: FLUX and SD 3 are not trained here, only SD 1.x, SD 2.x and SDXL.")
    found = Converted(options=split_words(str(content.get("additional_parameters") or "")))
    network = _kohya_network(content)
    of_networks = {name for _, names in (*KOHYA.values(), *LYCORIS.values()) for name in names}
    used = {*HANDLED, *of_networks}
    own = []
    for key, value in content.items():
        name = RENAMED.get(key, key)
        if key in used or not _on(value):
            continue
        if not is_known(name) or name in LAUNCHER:
            own.append(key)
        elif name in ("optimizer_args", "lr_scheduler_args"):
            found.settings[name] = split_words(str(value))
        elif not (name in ("cache_text_encoder_outputs", "no_half_vae") and not _on(content.get("sdxl"))):
            found.settings[name] = value
    found.settings |= network | _kohya_length(content, found.told) | _kohya_rates(content)
    _kohya_noise(content, found.settings)
    if _on(content.get("xformers")) and content["xformers"] != "none":
        found.settings["xformers" if content["xformers"] is True else str(content["xformers"])] = True
    if _on(content.get("sample_prompts")):
        found.told.append("sample_prompts holds prompts: save them as a .txt file and set sample_prompts to it.")
    if own:
        found.told.append(
            f"left out, as they concern the GUI, the launcher or other families of models: {', '.join(sorted(own))}."
        )
    return found


def _kohya_network(content: Mapping[str, Any]) -> dict[str, Any]:
    kind = str(content.get("LoRA_type") or "Standard")
    if kind in LYCORIS:
        algorithm, names = LYCORIS[kind]
        arguments = {"algo": algorithm, "preset": content.get("LyCORIS_preset") or "full"}
        names = (*CONV, *DROPOUTS, *names)
        module = "lycoris.kohya"
    elif kind in KOHYA:
        module, names = KOHYA[kind]
        arguments = {}
    else:
        raise UserError(f'LoRA_type "{kind}" is not trained here: known are {", ".join([*KOHYA, *LYCORIS])}.')
    given = {name: content[name] for name in names if _on(content.get(name)) and content[name] != -1}
    if kind == "LyCORIS/DyLoRA" and "unit" in given:
        given["block_size"] = given.pop("unit")
    return {"network_module": module, "network_args": arguments | given}


def _kohya_length(content: Mapping[str, Any], told: list[str]) -> dict[str, Any]:
    """The GUI reckons steps from its epochs where no steps are set; epochs say the same."""
    if any(_on(content.get(key)) for key in ("max_train_steps", "max_train_epochs")) or not _on(content.get("epoch")):
        return {}
    told.append(f"epoch = {content['epoch']} is max_train_epochs here, from which the GUI reckons max_train_steps.")
    return {"max_train_epochs": content["epoch"]}


def _kohya_rates(content: Mapping[str, Any]) -> dict[str, Any]:
    """Warm-up in percent, and rates of 0 that leave a part out."""
    rates: dict[str, Any] = {}
    warms = content.get("lr_scheduler") not in ("constant", "adafactor")
    if warms and _on(content.get("lr_warmup_steps")):
        rates["lr_warmup_steps"] = content["lr_warmup_steps"]
    elif warms and _on(content.get("lr_warmup")):
        rates["lr_warmup_steps"] = f"{content['lr_warmup']}%"
    text, unet = (_on(content.get(key)) for key in ("text_encoder_lr", "unet_lr"))
    if text != unet and "text_encoder_lr" in content and "unet_lr" in content:
        rates["network_train_text_encoder_only" if text else "network_train_unet_only"] = True
    return rates


def _kohya_noise(content: Mapping[str, Any], settings: dict[str, Any]) -> None:
    """The GUI hands on one kind of noise, the chosen one."""
    unused = {
        "Original": ("multires_noise_iterations", "multires_noise_discount"),
        "Multires": ("noise_offset", "adaptive_noise_scale", "noise_offset_random_strength"),
    }
    for name in unused.get(str(content.get("noise_offset_type")), ()):
        settings.pop(name, None)


def _on(value: Any) -> bool:
    """Whether the GUI would hand the value on: empty text, false and 0 stand for "not set" in it."""
    return value not in ("", None, False, 0, "0", "0.0", [], "None", "none")


def is_easy_training(content: Mapping[str, Any]) -> bool:
    """Whether a TOML file is what LoRA Easy Training Scripts saves: sections of `args` and `dataset_args`, and [[subsets]]."""
    sections = [value for value in content.values() if isinstance(value, dict)]
    return "subsets" in content or any("args" in each or "dataset_args" in each for each in sections)


def from_easy_training(content: Mapping[str, Any]) -> Converted:
    """A file of LoRA Easy Training Scripts.

    Raises:
        UserError: its subsets are no tables.
    """
    found = Converted()
    general: dict[str, Any] = {}
    for section in content.values():
        found.settings |= {key: value for key, value in _table(section, "args").items() if value not in ("", [], {})}
        general |= {key: value for key, value in _table(section, "dataset_args").items() if value not in ("", False)}
    listed = content.get("subsets", [])
    if not isinstance(listed, list) or not all(isinstance(subset, dict) for subset in listed):
        raise UserError("subsets: expected tables [[subsets]].")
    subsets = [{key: value for key, value in subset.items() if key != "name"} for subset in listed]
    if subsets:
        found.settings |= {"general": dict(_of_tables(general, found.settings)), "datasets": [{"subsets": subsets}]}
    else:
        found.settings |= general
    arguments = _table(found.settings, "network_args")
    if "algo" in arguments:
        module = "lycoris.kohya"
    elif "unit" in arguments:
        module = "networks.dylora"
    else:
        module = "networks.lora_fa" if found.settings.get("fa") else "networks.lora"
    found.settings.setdefault("network_module", module)
    if "warmup_ratio" in found.settings:
        found.settings["lr_warmup_steps"] = found.settings.pop("warmup_ratio")
    for key in ("fa", "tag_occurrence", "tag_file_location"):
        if found.settings.pop(key, None) and key != "fa":
            found.told.append(f"{key} is left out: the tags and their numbers are in the LoRA's metadata.")
    return found


def _table(section: Any, key: str) -> Mapping[str, Any]:
    """The table of that name in a section; an empty one where there is none."""
    table = section.get(key) if isinstance(section, dict) else None
    return table if isinstance(table, dict) else {}


def _of_tables(general: Mapping[str, Any], settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What [general] may hold; max_token_length is an option of the run."""
    for key, value in general.items():
        if key == "max_token_length":
            settings[key] = value
        else:
            yield key, value
