"""How many files a run keeps, and what is advised where they do not fit."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from library.config.schema import DataConfig, SavingConfig
from library.core.errors import Exit, UserError
from library.training.loop import Span
from library.training.needs import disk
from library.training.needs.disk import Kept, kept_files


def kept_by_hand(saving: SavingConfig, span: Span) -> Kept:
    """By going through the steps: each save is made, then what is older than the last n is removed."""
    loras: set[tuple[str, int]] = set()
    states: set[tuple[str, int]] = set()
    for step in range(span.first_step + 1, span.last_step):
        due = []
        if saving.save_every_n_epochs and step % (saving.save_every_n_epochs * span.updates_per_epoch) == 0:
            due.append(("epoch", step // span.updates_per_epoch))
        if saving.save_every_n_steps and step % saving.save_every_n_steps == 0:
            due.append(("step", step))
        for unit, number in due:
            loras.add((unit, number))
            if saving.save_state:
                states.add((unit, number))
            last = saving.save_last_n_epochs if unit == "epoch" else saving.save_last_n_steps
            of_states = saving.save_last_n_epochs_state if unit == "epoch" else saving.save_last_n_steps_state
            span_kept = (saving.save_every_n_epochs or 1) if unit == "epoch" else 1
            for files, keep in ((loras, last), (states, of_states or last)):
                if keep is not None:
                    oldest = number - keep * span_kept
                    files -= {each for each in files if each[0] == unit and each[1] < oldest + (unit == "epoch")}
    return Kept(len(loras) + 1, len(states) + (saving.save_state or saving.save_state_on_train_end))


CHOICES = {
    "save_every_n_epochs": [None, 2],
    "save_every_n_steps": [None, 3],
    "save_last_n_epochs": [None, 2],
    "save_last_n_steps": [None, 7, 6],
    "save_last_n_epochs_state": [None, 1],
    "save_last_n_steps_state": [None, 2],
    "save_state": [True, False],
}


@pytest.mark.parametrize("span", [Span(0, 40, 3, 1), Span(0, 5, 3, 1), Span(13, 36, 4, 1)], ids=str)
def test_files_are_counted_as_they_are_kept(span: Span) -> None:
    for values in itertools.product(*CHOICES.values()):
        saving = SavingConfig(**dict(zip(CHOICES, values)), save_state_on_train_end=True)  # type: ignore[arg-type]
        assert kept_files(saving, span) == kept_by_hand(saving, span), saving


def test_a_ratio_of_epochs_is_counted_too() -> None:
    assert kept_files(SavingConfig(save_n_epoch_ratio=4), Span(0, 40, 4, 1)).loras == 5


def run_with(**saving: object) -> SimpleNamespace:
    config = SimpleNamespace(saving=SavingConfig(**saving), data=DataConfig())  # type: ignore[arg-type]
    return SimpleNamespace(config=config)


def writings(tmp_path, total: int, least: int) -> list[disk.Writing]:
    return [disk.Writing("LoRA files", tmp_path, total, least, "output_dir")]


@pytest.mark.parametrize(
    ("saving", "advised", "not_advised"),
    [
        ({}, ["save_precision"], ["save_last"]),
        ({"save_every_n_steps": 5, "save_state": True}, ["save_last_n_steps ", "save_last_n_steps_state"], ["epochs"]),
        ({"save_every_n_epochs": 1, "save_precision": "bf16"}, ["save_last_n_epochs "], ["_state", "save_precision"]),
        ({"save_every_n_steps": 5, "save_last_n_steps": 9, "save_state": True}, ["save_every_n_steps"], ["save_last"]),
    ],
)
def test_what_would_lower_it_is_advised(tmp_path, saving, advised: list[str], not_advised: list[str]) -> None:
    told = disk._compared(run_with(**saving), writings(tmp_path, 3_000_000, 1_000_000), 2_000_000)
    assert "it takes 3.0 MB, and 2.0 MB are free" in told and str(tmp_path) in told
    assert all(word in told for word in advised) and not any(word in told for word in not_advised)


def test_what_fits_needs_no_word_and_what_cannot_even_begin_stops(tmp_path) -> None:
    assert disk._compared(run_with(), writings(tmp_path, 3000, 1000), 3000) == ""
    with pytest.raises(UserError, match=r"a single save take 2\.0 MB, and 1\.9 MB are free") as caught:
        disk._compared(run_with(), writings(tmp_path, 3_000_000, 2_000_000), 1_900_000)
    assert caught.value.exit_code == Exit.DISK_FULL
