"""Which files a run leaves: their names, when they are written, and which are removed again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from library.config.schema import SavingConfig
from library.core.errors import Exit, UserError
from library.training.loop import Span, StepReport
from library.training.state.checkpoint import Position, load_state, read_position
from library.training.state.saving import Saver, checkpoint_name
from tests.training.conftest import KEY, report_of

UPDATES_PER_EPOCH = 2


@dataclass
class Folder:
    """A run's output folder, and the run that fills it."""

    path: Path
    new_trainer: Callable[..., Any]
    waited: list[None] = field(default_factory=list)

    def saver(self, last_step: int, first_step: int = 0, rank: int = 0, **settings: Any) -> Saver:
        config = SavingConfig(output_dir=str(self.path), output_name=settings.pop("output_name", "hero"), **settings)
        return Saver(
            trainer=self.new_trainer(0.25, rank=rank),
            config=config,
            span=Span(first_step, last_step, UPDATES_PER_EPOCH, 1),
            describe=lambda steps, epochs: {"ss_steps": str(steps), "ss_epoch": str(epochs)},
            position=lambda step: Position(step, last_step, 0, "", "", {}, 0.0, float(step), "CPU"),
            wait_for_everyone=lambda: self.waited.append(None),
        )

    def run(self, last_step: int, first_step: int = 0, rank: int = 0, **settings: Any) -> Saver:
        saver = self.saver(last_step, first_step, rank, **settings)
        saver.before_training(first_step)
        for step in range(first_step + 1, last_step + 1):
            saver.after_step(report(step))
        saver.after_training(last_step)
        return saver

    @property
    def loras(self) -> list[str]:
        return sorted(path.stem for path in self.path.glob("*.safetensors"))

    @property
    def states(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir() if path.is_dir())


def report(step: int) -> StepReport:
    return report_of(step, UPDATES_PER_EPOCH)


def epochs(*numbers: int) -> list[str]:
    return [f"hero-{number:06d}" for number in numbers]


def steps(*numbers: int) -> list[str]:
    return [f"hero-step{number:08d}" for number in numbers]


@pytest.fixture
def folder(tmp_path: Path, new_trainer: Callable[..., Any]) -> Folder:
    return Folder(tmp_path / "output", new_trainer)


def test_names_are_those_of_sd_scripts() -> None:
    assert checkpoint_name("hero", "epoch", 10) == "hero-000010"
    assert checkpoint_name("hero", "step", 500) == "hero-step00000500"


def test_without_intervals_only_the_end_is_saved(folder: Folder) -> None:
    saver = folder.run(6)
    assert folder.loras == ["hero"]
    assert folder.states == []
    assert saver.file == folder.path / "hero.safetensors"


def test_the_last_step_is_saved_once_under_the_plain_name(folder: Folder) -> None:
    folder.run(6, save_every_n_steps=2, save_every_n_epochs=1)
    assert folder.loras == sorted(["hero", *epochs(1, 2), *steps(2, 4)])
    assert len(folder.waited) == 1


def test_a_file_holds_tensors_in_the_asked_precision_and_what_is_known_of_it(folder: Folder) -> None:
    folder.run(6, save_every_n_epochs=2, save_precision="bf16")
    file = folder.path / "hero-000002.safetensors"
    (tensor,) = load_file(file).values()
    assert tensor.dtype == torch.bfloat16
    assert torch.equal(tensor.float(), torch.full((2, 4), 0.25))
    with safe_open(file, "pt") as opened:
        assert list(opened.keys()) == [f"{KEY}.lora_down.weight"]
        assert opened.metadata()["ss_steps"] == "4"
        assert opened.metadata()["ss_epoch"] == "2"


def test_factors_of_whole_rows_are_saved_without_having_been_rounded(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver, fine = folder.saver(2, save_precision="fp16"), torch.tensor([1 + 2.0**-20])
    monkeypatch.setattr(saver.trainer.network, "state_dict_to_save", lambda: {f"{KEY}.dora_scale": fine})
    saver.after_training(2)
    assert torch.equal(load_file(saver.file)[f"{KEY}.dora_scale"], fine)


@pytest.mark.parametrize(("ratio", "saved"), [(1, []), (2, epochs(3)), (3, epochs(2, 4)), (100, epochs(1, 2, 3, 4, 5))])
def test_at_least_so_many_over_the_run(folder: Folder, ratio: int, saved: list[str]) -> None:
    folder.run(12, save_n_epoch_ratio=ratio)
    assert folder.loras == ["hero", *saved]


def test_states_on_demand(folder: Folder) -> None:
    folder.run(4, save_every_n_epochs=1, save_state=True)
    assert folder.states == ["hero-000001-state", "hero-state"]
    assert read_position(folder.path / "hero-000001-state").step == 2
    assert read_position(folder.path / "hero-state").step == 4


def test_a_state_at_the_end_only(folder: Folder) -> None:
    folder.run(4, save_every_n_epochs=1, save_state_on_train_end=True)
    assert folder.states == ["hero-state"]


def test_the_last_n_epochs_are_kept(folder: Folder) -> None:
    folder.run(13, save_every_n_epochs=1, save_last_n_epochs=2)
    assert folder.loras == ["hero", *epochs(5, 6)]


def test_of_epochs_that_are_saved_now_and_then_the_last_n_are_kept(folder: Folder) -> None:
    folder.run(21, save_every_n_epochs=3, save_last_n_epochs=2)
    assert folder.loras == ["hero", *epochs(6, 9)]


def test_the_last_n_steps_are_a_span_of_steps_and_not_a_number_of_files(folder: Folder) -> None:
    folder.run(21, save_every_n_steps=2, save_last_n_steps=6)
    assert folder.loras == ["hero", *steps(14, 16, 18, 20)]


def test_a_span_that_ends_between_two_files(folder: Folder) -> None:
    folder.run(21, save_every_n_steps=4, save_last_n_steps=5)
    assert folder.loras == ["hero", *steps(16, 20)]


def test_states_are_removed_with_their_files(folder: Folder) -> None:
    folder.run(13, save_every_n_epochs=1, save_last_n_epochs=2, save_state=True)
    assert folder.loras == ["hero", *epochs(5, 6)]
    assert folder.states == [*(f"{name}-state" for name in epochs(5, 6)), "hero-state"]


@pytest.mark.parametrize(
    ("settings", "states", "loras"),
    [
        ({"save_every_n_epochs": 1, "save_last_n_epochs_state": 1}, epochs(6), epochs(1, 2, 3, 4, 5, 6)),
        (
            {"save_every_n_epochs": 1, "save_last_n_epochs": 1, "save_last_n_epochs_state": 3},
            epochs(4, 5, 6),
            epochs(6),
        ),
        ({"save_every_n_steps": 2, "save_last_n_steps_state": 2}, steps(10, 12), steps(2, 4, 6, 8, 10, 12)),
    ],
)
def test_states_may_be_kept_for_another_while(
    folder: Folder, settings: dict[str, int], states: list[str], loras: list[str]
) -> None:
    folder.run(13, save_state=True, **settings)
    assert folder.states == sorted(f"{name}-state" for name in ["hero", *states])
    assert folder.loras == ["hero", *loras]


def test_epochs_and_steps_are_counted_apart(folder: Folder) -> None:
    folder.run(13, save_every_n_epochs=1, save_every_n_steps=3, save_last_n_epochs=1)
    assert folder.loras == sorted(["hero", *epochs(6), *steps(3, 6, 9, 12)])


NEIGHBOURS = [
    "hero_v2-000001",
    "hero-v2-000001",
    "hero-0000001",
    "hero-00001",
    "hero-step00000001-copy",
    "my-hero-000001",
    "hero-000001 (1)",
]


@pytest.mark.parametrize(
    "settings", [{"save_every_n_epochs": 1, "save_last_n_epochs": 1}, {"save_every_n_steps": 1, "save_last_n_steps": 1}]
)
def test_nothing_of_another_name_is_ever_removed(folder: Folder, settings: dict[str, int]) -> None:
    folder.path.mkdir()
    for name in NEIGHBOURS:
        (folder.path / f"{name}.safetensors").touch()
        (folder.path / f"{name}-state").mkdir()
    folder.run(13, save_state=True, **settings)
    assert set(NEIGHBOURS) <= set(folder.loras)
    assert {f"{name}-state" for name in NEIGHBOURS} <= set(folder.states)


def test_a_resumed_run_removes_what_the_former_part_left(folder: Folder) -> None:
    folder.run(9, save_every_n_epochs=1, save_last_n_epochs=2)
    assert folder.loras == ["hero", *epochs(3, 4)]
    folder.run(13, first_step=8, save_every_n_epochs=1, save_last_n_epochs=2)
    assert folder.loras == ["hero", *epochs(5, 6)]


@pytest.mark.parametrize("name", ["hero [v1]", "hero.(1)+"])
def test_letters_that_mean_something_in_patterns_are_letters(folder: Folder, name: str) -> None:
    folder.run(9, output_name=name, save_every_n_epochs=1, save_last_n_epochs=1)
    assert folder.loras == sorted([name, f"{name}-000004"])


def test_other_processes_write_nothing_and_leave_when_all_is_written(folder: Folder) -> None:
    folder.run(6, rank=1, save_every_n_epochs=1, save_state=True, save_last_n_epochs=1)
    assert not folder.path.exists()
    assert len(folder.waited) == 1


def test_a_run_that_stops_leaves_its_state_whatever_is_asked_of_states(folder: Folder) -> None:
    saver = folder.saver(9)
    for step in range(1, 4):
        saver.after_step(report(step))
    saver.before_stop(3)
    assert folder.loras == steps(3)
    assert folder.states == [f"{name}-state" for name in steps(3)]
    assert read_position(folder.path / folder.states[0]).step == 3


def test_a_state_of_that_step_is_not_written_twice(folder: Folder) -> None:
    saver = folder.saver(9, save_every_n_epochs=1, save_state=True)
    for step in range(1, 5):
        saver.after_step(report(step))
    saver.before_stop(4)
    assert folder.states == [f"{name}-state" for name in epochs(1, 2)]


def test_later_steps_do_not_reach_what_is_being_written(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer is held up until training is done."""
    saver, may_write = folder.saver(9, save_every_n_steps=1, save_state=True), Event()
    saver.writer.write(lambda: assert_in_time(may_write))
    saver.after_step(report(1))
    assert folder.loras == []
    with torch.no_grad():
        saver.trainer.groups.values.fill_(7.0)
    may_write.set()
    saver.writer.finish()
    (tensor,) = load_file(folder.path / "hero-step00000001.safetensors").values()
    assert torch.equal(tensor, torch.full((2, 4), 0.25))
    saved = load_state(folder.path / "hero-step00000001-state").tensors["network"]["0"]
    assert torch.equal(saved[:8], torch.full((8,), 0.25))


def assert_in_time(event: Event) -> None:
    assert event.wait(10)


def test_what_went_wrong_while_writing_ends_the_run_at_the_next_step(folder: Folder) -> None:
    saver = folder.saver(9, save_every_n_steps=2)
    saver.describe = lambda step, epoch: {}["no such key"]
    saver.after_step(report(2))
    with pytest.raises(KeyError, match="no such key"):
        for _ in range(1000):
            time.sleep(0.01)
            saver.after_step(report(3))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("settings", [{}, {"save_state": True}])
def test_weights_that_are_not_finite_are_not_saved(folder: Folder, value: float, settings: dict) -> None:
    saver = folder.saver(9, save_every_n_steps=2, **settings)
    saver.after_step(report(2))
    with torch.no_grad():
        saver.trainer.groups.values[3] = value
    with pytest.raises(UserError, match="were not saved") as stopped:
        saver.after_step(report(4))
    assert stopped.value.exit_code == Exit.BROKEN_VALUES
    saver.writer.finish()
    assert folder.loras == steps(2)


def test_what_went_wrong_while_writing_is_told_where_the_run_ends_by_something_else(folder: Folder) -> None:
    saver = folder.saver(9, save_every_n_steps=2)
    saver.describe = lambda step, epoch: {}["no such key"]
    with pytest.raises(KeyError, match="no such key") as last, closing(saver):
        saver.after_step(report(2))
        raise ValueError("the gradient became NaN")
    assert isinstance(last.value.__context__, ValueError)


def test_a_file_that_cannot_be_removed_ends_nothing(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on Windows, while another program has it open."""

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "in use", str(path))

    saver = folder.saver(9, save_every_n_steps=2, save_last_n_steps=2)
    saver.after_step(report(2))
    saver.writer.make_room()
    kept = folder.path / "hero-step00000002.safetensors"
    for _ in range(1000):
        if kept.exists():
            break
        time.sleep(0.01)
    kept.unlink()
    kept.mkdir()
    (kept / "open").touch()
    monkeypatch.setattr("library.training.state.saving.remove_folder", refuse)
    for step in (4, 6):
        saver.after_step(report(step))
    saver.close()
    assert "cannot be removed" in caplog.text
    assert kept.exists()


def test_weights_too_large_for_the_asked_precision_are_saved_in_fp32(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    saver = folder.saver(2, save_precision="fp16")
    with torch.no_grad():
        saver.trainer.groups.values.fill_(70000.0)
    saver.after_training(2)
    (tensor,) = load_file(saver.file).values()
    assert torch.equal(tensor, torch.full((2, 4), 70000.0))
    assert "fp32" in caplog.text
