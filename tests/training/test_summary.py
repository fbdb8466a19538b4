"""The last words of a run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from library.training.summary import Outcome, tell

OUTCOME = Outcome(
    lora=Path("output/anna/anna.safetensors"),
    state=None,
    samples=None,
    comparison=None,
    log=None,
    config=Path("output/anna/anna.config.toml"),
    triggers=["anna"],
    base_model="sd15.safetensors",
    steps=1200,
    loss=0.12339,
    validation=[],
    seconds=59.6,
)


def row(text: str, name: str) -> str | None:
    """What stands beside `name`."""
    lines = [line.strip() for line in text.splitlines()]
    return next((line.removeprefix(name).strip() for line in lines if line.startswith(name + " ")), None)


def test_it_says_where_the_lora_is_and_how_to_call_it() -> None:
    text = tell(OUTCOME)
    assert Path(row(text, "LoRA")) == OUTCOME.lora
    assert row(text, "trigger") == "anna"
    assert row(text, "base model") == "sd15.safetensors"
    assert row(text, "training loss").startswith("0.1234,")
    assert "anna, <lora:anna:1>" in text
    assert 'load_lora_weights("output/anna", weight_name="anna.safetensors")' in text


def test_what_there_is_not_is_not_told() -> None:
    text = tell(replace(OUTCOME, loss=math.nan))
    for name in ("state to resume", "samples", "before and after", "TensorBoard", "validation loss", "training loss"):
        assert row(text, name) is None
    assert "None" not in text
    assert "nan" not in text


def test_a_comparison_is_told_once_it_exists(tmp_path: Path) -> None:
    picture = tmp_path / "anna.before_after.png"
    outcome = replace(OUTCOME, comparison=picture, state=tmp_path / "anna-state", log=tmp_path / "logs")
    assert row(tell(outcome), "before and after") is None
    picture.touch()
    text = tell(outcome)
    assert row(text, "before and after") == str(picture)
    assert row(text, "state to resume") == str(outcome.state)
    assert row(text, "TensorBoard") == f"tensorboard --logdir {outcome.log.as_posix()}"


def test_the_course_of_the_validation() -> None:
    text = tell(replace(OUTCOME, validation=[(0, 0.3), (100, 0.1), (200, 0.2)]))
    assert row(text, "validation loss") == "0.3000 at step 0 -> 0.2000; lowest 0.1000 at step 100"


def test_without_a_trigger_it_says_so() -> None:
    text = tell(replace(OUTCOME, triggers=[]))
    assert "none" in row(text, "trigger")
    assert "prompt: <lora:anna:1>" in text


@pytest.mark.parametrize(
    ("seconds", "clock"),
    [(0.2, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599.4, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")],
)
def test_clock(seconds: float, clock: str) -> None:
    assert row(tell(replace(OUTCOME, seconds=seconds)), "time").split()[0] == clock
    assert row(tell(OUTCOME), "time").endswith("for 1200 steps")
