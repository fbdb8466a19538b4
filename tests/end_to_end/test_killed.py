"""Real signals at chosen moments: nothing older than the last interval is lost, nothing wrong is saved, and what stops says so."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.blows import Blow
from tests.end_to_end.conftest import words
from tests.end_to_end.mortal import run

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")

STEPS = 24

KILLS = [
    ("caching", 2), ("caching", 6), ("step", 1), ("step", 4), ("update", 4), ("saving", 2), ("saving a state", 1),
    ("saving a state", 2), ("sampling", 2), ("validation", 2),
]  # fmt: skip
"""What the runs of a chain are doing when they are killed, and for which time since their start."""


class Chain:
    """Starts of one run, one after the other, in one output folder."""

    def __init__(self, folder: Path, options: dict[str, object]) -> None:
        self.folder = folder
        self.said = folder.with_suffix(".log")
        self.options = {**options, "output_dir": folder, "resume": "latest"}

    def start(self, blow: Blow | None = None, **changed: object) -> int:
        argv = [
            word
            for key, value in {**self.options, **changed}.items()
            if value is not None
            for word in (f"--{key}", *words(value))
        ]
        return run(argv, blow, self.said)

    @property
    def output(self) -> str:
        return self.said.read_text(encoding="utf-8")

    @property
    def states(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("*-state"))

    def tensors(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "lora.safetensors")


@pytest.fixture(scope="module")
def chain(
    pictures: Path, models: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Chain]:
    """`chain(name, **options)`."""
    tmp_path = tmp_path_factory.mktemp("killed")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("hero, man --w 64 --h 64 --s 2 --d 1", encoding="utf-8")

    def new(name: str, **changed: object) -> Chain:
        options = {
            "pretrained_model_name_or_path": models("sd15"), "train_data_dir": pictures, "output_name": "lora",
            "resolution": 64, "enable_bucket": True, "min_bucket_reso": 32, "bucket_reso_steps": 16, "train_batch_size": 2,
            "network_dim": 4, "network_train_unet_only": True, "learning_rate": 1e-2, "lr_scheduler": "cosine",
            "max_train_steps": STEPS, "seed": 7, "progress": False, "cache_dir": tmp_path / f"cache {name}",
            "cache_latents_to_disk": True, "cache_text_encoder_outputs_to_disk": True, "save_every_n_steps": 2,
            "save_state": True, "validation_split": 0.2, "validate_every_n_steps": 3, "sample_prompts": prompts,
            "sample_every_n_steps": 4,
        }  # fmt: skip
        return Chain(tmp_path / name, {**options, **changed})

    return new


@pytest.fixture(scope="module")
def undisturbed(chain: Callable[..., Chain]) -> Chain:
    whole = chain("whole")
    assert whole.start() == 0, whole.output
    return whole


def assert_same(one: Chain, other: Chain) -> None:
    first, second = one.tensors(), other.tensors()
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_killed_again_and_again_it_ends_as_if_nothing_had_been(chain: Callable[..., Chain], undisturbed: Chain) -> None:
    killed, dice = chain("killed"), random.Random(11)
    for moment, count in KILLS:
        status = killed.start(Blow(moment, count, delay=dice.choice([0.0, dice.uniform(0.001, 0.03)])))
        assert status == -signal.SIGKILL, f"{moment}: {killed.output}"
    assert killed.start() == 0, killed.output
    assert "resuming from" in killed.output
    assert_same(killed, undisturbed)
    leftovers = [path.name for path in killed.folder.iterdir() if path.name.startswith(".")]
    assert not leftovers, "what killed writers left is removed"


@pytest.mark.parametrize(
    ("blow", "status", "after_step"),
    [
        (Blow("step", 3, number=signal.SIGINT), 130, 3),
        (Blow("update", 5, number=signal.SIGTERM), 143, 5),
        (Blow("sampling", 1, delay=0.01, number=signal.SIGHUP), 129, 4),
    ],
)
def test_asked_to_stop_it_saves_its_state_and_says_how_to_go_on(
    chain: Callable[..., Chain], undisturbed: Chain, blow: Blow, status: int, after_step: int
) -> None:
    stopped = chain(signal.Signals(blow.number).name, save_every_n_steps=None, save_state=None)
    assert stopped.start(blow) == status, stopped.output
    assert "--resume latest continues" in stopped.output
    assert stopped.states == [f"lora-step{after_step:08d}-state"]
    assert stopped.start() == 0, stopped.output
    assert_same(stopped, undisturbed)


def test_asked_twice_it_ends_at_once(chain: Callable[..., Chain]) -> None:
    """In the middle of a step that takes seconds."""
    stopped = chain("twice")
    assert stopped.start(Blow("step", 2, number=signal.SIGTERM, again=0.4)) == 143
    assert "SIGTERM again" in stopped.output
    assert stopped.states == []


def test_out_of_time_it_has_saved_before_and_is_completed_by_starting_it_again(
    chain: Callable[..., Chain], undisturbed: Chain
) -> None:
    timed = chain("timed", save_every_n_steps=None)
    assert timed.start(max_train_time=1) == 6, timed.output
    assert "its time is up" in timed.output
    assert len(timed.states) == 1
    assert timed.start() == 0, timed.output
    assert_same(timed, undisturbed)
    assert timed.start() == 0, "as by a script that starts it until all is done"
    assert "The run is complete" in timed.output
    assert_same(timed, undisturbed)
