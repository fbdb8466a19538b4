"""What a run leaves behind: files, sample pictures, logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from library.config.schema.fields import option


@dataclass(frozen=True)
class SavingConfig:
    """LoRA files and resumable states."""

    output_dir: str = option("output", path="output")
    """Folder of everything that the run leaves."""
    output_name: str = "last"
    """Name of the LoRA file."""
    save_precision: Literal["float", "fp16", "bf16"] | None = option(None, parse=lambda value: _precision(value))
    """Type of the saved weights; unset: float."""
    save_every_n_epochs: int | None = option(None, minimum=1, zero_is_unset=True)
    """Save a LoRA every n epochs."""
    save_every_n_steps: int | None = option(None, minimum=1, zero_is_unset=True)
    """Save a LoRA every n steps."""
    save_n_epoch_ratio: int | None = option(None, minimum=1, zero_is_unset=True)
    """Save at least this many LoRAs over the run, at epochs."""
    save_last_n_epochs: int | None = option(None, minimum=1, zero_is_unset=True)
    """Keep the LoRAs of the last n epochs."""
    save_last_n_steps: int | None = option(None, minimum=1, zero_is_unset=True)
    """Keep the LoRAs of the last n steps (a span of steps, not a number of files)."""
    save_state: bool = False
    """With every saved LoRA save the state that `resume` continues from."""
    save_state_on_train_end: bool = False
    """Save the state at the end."""
    save_last_n_epochs_state: int | None = option(None, minimum=1, zero_is_unset=True)
    """As save_last_n_epochs, for states."""
    save_last_n_steps_state: int | None = option(None, minimum=1, zero_is_unset=True)
    """As save_last_n_steps, for states."""
    resume: str | None = option(None, path="input")
    """Continue from this state folder; `latest` finds the newest of output_name in output_dir."""
    resume_with_new_schedule: bool = False
    """When a resumed run has another length: follow the new learning-rate curve instead of the old one."""
    resume_with_changes: bool = False
    """Continue although settings, data or the base model are not those of the state, and with the new ones (another learning rate,
    say). Without it such a run stops and says what has changed."""
    no_metadata: bool = False
    """Write only the metadata that other programs need to load the file."""
    training_comment: str | None = None
    """A remark for the metadata."""
    metadata_title: str | None = None
    """Title in the metadata; unset: output_name."""
    metadata_author: str | None = None
    """Author in the metadata."""
    metadata_description: str | None = None
    """Description in the metadata."""
    metadata_license: str | None = None
    """Licence in the metadata."""
    metadata_tags: str | None = None
    """Tags in the metadata, separated by commas."""
    metadata_usage_hint: str | None = None
    """How to use the LoRA, in the metadata; unset: says the trigger word."""
    metadata_trigger_phrase: str | None = None
    """Trigger phrase in the metadata; unset: trigger_word."""
    metadata_thumbnail: str | None = None
    """Picture in the metadata: a file, or a data URL."""
    metadata_merged_from: str | None = None
    """Names of the models that this one was merged from, in the metadata."""
    metadata_preprocessor: str | None = None
    """Preprocessor in the metadata."""
    metadata_is_negative_embedding: str | None = None
    """Whether this is a negative embedding, in the metadata."""


@dataclass(frozen=True)
class SamplingConfig:
    """Sample pictures during the run. A failure here never ends the run."""

    sample_prompts: str | None = option(None, path="input")
    """Prompt file: .txt with a prompt a line and flags such as `--n bad --w 512 --d 1`, or .toml, or .json."""
    sample_every_n_steps: int | None = option(None, minimum=1, zero_is_unset=True)
    """Sample every n steps."""
    sample_every_n_epochs: int | None = option(None, minimum=1, zero_is_unset=True)
    """Sample every n epochs; overrides sample_every_n_steps."""
    sample_at_first: bool = False
    """Sample before the first step too."""
    sample_sampler: Literal[
        "ddim", "pndm", "lms", "euler", "euler_a", "heun", "dpm_2", "dpm_2_a", "dpmsolver", "dpmsolver++", "dpmsingle",
        "k_lms", "k_euler", "k_euler_a", "k_dpm_2", "k_dpm_2_a",
    ] = "ddim"  # fmt: skip
    """Sampler of prompts that name none."""


@dataclass(frozen=True)
class LoggingConfig:
    """TensorBoard and the progress bar."""

    logging_dir: str | None = option(None, path="output")
    """Folder of the TensorBoard logs; unset: `logs` in output_dir."""
    log_prefix: str | None = None
    """Put before the time stamp in the log folder's name."""
    log_tracker_name: str = "network_train"
    """Name of the log's folder."""
    log_with: Literal["tensorboard", "none"] = "tensorboard"
    """Where to log."""
    log_every_n_steps: int = option(1, minimum=1)
    """Write the log every n steps."""
    progress: bool = True
    """Show the progress bar."""


@dataclass(frozen=True)
class ConfigConfig:
    """How the configuration itself is read."""

    extends: list[str] = option(factory=list, parse=lambda value: value if isinstance(value, list) else [value])
    """Presets or files that this config builds on; later ones win, then the file, then the command line."""
    unknown_keys: Literal["error", "warn"] = "error"
    """What to do with keys nobody knows: refuse, or go on and list them."""


def _precision(value: Any) -> str | None:
    names = {None: None, "float": "float", "fp32": "float", "fp16": "fp16", "bf16": "bf16"}
    if value not in names:
        raise ValueError("float, fp16 or bf16")
    return names[value]
