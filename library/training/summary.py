"""The last words of a run: where everything is, how it went, and how to use the LoRA."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """What a finished run has to tell."""

    lora: Path
    state: Path | None
    samples: Path | None
    comparison: Path | None
    log: Path | None
    config: Path
    triggers: Sequence[str]
    base_model: str
    steps: int
    loss: float
    """Mean training loss over the last epoch."""
    validation: Sequence[tuple[int, float]]
    """(step, validation loss), in order."""
    seconds: float


def tell(outcome: Outcome) -> str:
    """The summary as text."""
    rows = [
        ("LoRA", outcome.lora),
        ("before and after", _existing(outcome.comparison)),
        ("samples", outcome.samples),
        ("state to resume", outcome.state),
        ("configuration", outcome.config),
        ("TensorBoard", outcome.log and f"tensorboard --logdir {outcome.log.as_posix()}"),
        (
            "trigger",
            ", ".join(outcome.triggers) or "none named (trigger_word): what the captions have in common calls it",
        ),
        ("base model", outcome.base_model),
        ("training loss", None if math.isnan(outcome.loss) else f"{outcome.loss:.4f}, mean over the last epoch"),
        ("validation loss", _validation(outcome.validation)),
        ("time", f"{_clock(outcome.seconds)} for {outcome.steps} steps"),
    ]
    table = "\n".join(f"  {name:17} {value}" for name, value in rows if value is not None)
    return f"\nDone.\n{table}\n\n{_how_to_load(outcome)}"


def _existing(path: Path | None) -> Path | None:
    return path if path is not None and path.is_file() else None


def _validation(history: Sequence[tuple[int, float]]) -> str | None:
    if not history:
        return None
    best_step, best = min(history, key=lambda point: point[1])
    return f"{history[0][1]:.4f} at step {history[0][0]} -> {history[-1][1]:.4f}; lowest {best:.4f} at step {best_step}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d} minutes"


def _how_to_load(outcome: Outcome) -> str:
    name = outcome.lora.stem
    word = f"{outcome.triggers[0]}, " if outcome.triggers else ""
    return (
        "To use it:\n"
        f"  ComfyUI        copy {outcome.lora.name} to ComfyUI/models/loras, add a Load LoRA node, prompt: {word}...\n"
        f"  A1111, Forge   copy it to models/Lora, prompt: {word}<lora:{name}:1>\n"
        f'  diffusers      pipe.load_lora_weights("{outcome.lora.parent.as_posix()}", weight_name="{outcome.lora.name}")'
    )
