"""What `dojo check` tells of a run before it begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from library.config.dataset import resolve_datasets
from library.config.load import LoadedConfig, load_config
from library.core.errors import UserError
from library.data.checks.preflight import preflight
from library.models.load import load_model
from library.models.published import recipe
from library.models.random_weights import write_folder
from library.preflight import estimates
from library.preflight.estimates import Estimates, estimate_run
from library.training.data import build_data, look_through
from library.training.length import plan_length
from library.training.loading import batches
from library.training.loop import StepReport, fit
from library.training.needs import time as needed_time
from library.training.needs.speed import Machine, Speeds
from library.training.run import start_run
from library.training.trainer import build_trainer, trained_hosts
from networks.build import build_network

SPEEDS = Speeds({"product": 1e9, "convolution": 1e9, "attention": 1e9}, reading=1e9, passing=1e9, calling=1e-6)
STEPS = 12


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny `model` and three `pictures`."""
    root = tmp_path_factory.mktemp("material")
    write_folder(recipe("sd15", tiny=True), root / "model")
    (root / "pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (64, 64), (60 * number, 90, 120)).save(root / "pictures" / f"{number}.png")
        (root / "pictures" / f"{number}.txt").write_text("hero, man", encoding="utf-8")
    return root


@pytest.fixture
def config(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LoadedConfig]:
    """`config(**options)`, on a machine of known speeds."""
    monkeypatch.setattr(needed_time, "measured", lambda *given: Machine({torch.float32: SPEEDS}, False))

    def load(**options: object) -> LoadedConfig:
        given = {
            "pretrained_model_name_or_path": material / "model", "train_data_dir": material / "pictures", "resolution": 64,
            "max_train_steps": STEPS, "output_dir": tmp_path / "out", "cache_dir": tmp_path / "cache", "seed": 1, **options,
        }  # fmt: skip
        return load_config([word for key, value in given.items() for word in (f"--{key}", str(value))])

    return load


def estimated(loaded: LoadedConfig) -> Estimates:
    threads = torch.get_num_threads()
    datasets, _ = resolve_datasets(loaded.config)
    try:
        return estimate_run(loaded, datasets, preflight(datasets).pictures)
    finally:
        torch.set_num_threads(threads)


def test_everything_is_told_and_nothing_written(
    config: Callable[..., LoadedConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = estimated(config())
    assert found.problems == []
    assert found.peak_memory_bytes and found.peak_memory_bytes > 1 << 27 and "at 64x64" in found.memory_text
    assert found.free_memory_bytes and found.disk_bytes and "of LoRA files" in found.disk_text
    assert found.seconds_per_step and found.seconds and found.seconds >= STEPS * found.seconds_per_step
    assert "rough" in found.how_time
    assert found.schedule_text.startswith("constant; ")
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""


def test_the_curve_is_that_of_the_run(config: Callable[..., LoadedConfig]) -> None:
    """Against the rates of each step that the loop reports to the log."""
    loaded = config(
        lr_scheduler="cosine", lr_warmup_steps=4, unet_lr=3e-4, text_encoder_lr=1e-4, lr_scheduler_min_lr_ratio=0.1
    )
    found = estimated(loaded)
    threads = torch.get_num_threads()
    run = start_run(loaded, loaded.config, Accelerator())
    torch.set_num_threads(threads)
    model = load_model(run.config.model, run.dtype, run.device)
    data = build_data(run, *look_through(run), model)
    length = plan_length(run, data.updates_per_epoch)
    network = build_network(run.config.network, trained_hosts(run, model), model.family, run.seed)
    logged: list[tuple[int, float]] = []

    class Listener:
        def before_training(self, step: int) -> None: ...

        def after_step(self, report: StepReport) -> None:
            logged.append((report.step, report.rates["unet"]))

        def after_training(self, step: int) -> None: ...

        def before_stop(self, step: int) -> None: ...

    fit(build_trainer(run, model, network, length), batches(run, data, model, length.span), length.span, [Listener()])
    assert found.learning_rates == logged and len(logged) == STEPS
    assert found.schedule_text.startswith("cosine, warm-up over 4 of 12 steps, down to 0.1 of the rate at the least; ")
    assert "unet 0.0003" in found.schedule_text and "textencoder 0.0001" in found.schedule_text


def test_a_long_run_has_some_points_and_a_long_warm_up_a_word(config: Callable[..., LoadedConfig]) -> None:
    found = estimated(config(max_train_steps=1000, lr_warmup_steps=600))
    steps = [step for step, _ in found.learning_rates]
    assert len(steps) == estimates.POINTS and (steps[0], steps[-1]) == (1, 1000)
    assert "The warm-up takes 60% of the run" in found.schedule_text


def test_a_part_that_fails_is_a_problem(config: Callable[..., LoadedConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: object) -> None:
        raise NotImplementedError("no\x1b numbers\nhere")

    monkeypatch.setattr(estimates, "estimate_time", fails)
    found = estimated(config())
    assert found.seconds is None and found.how_time == "" and found.disk_bytes is not None
    assert len(found.problems) == 1 and "the time could not be estimated: NotImplementedError: no" in found.problems[0]
    assert "\x1b" not in found.problems[0]
    monkeypatch.setattr(estimates, "estimate", fails)
    found = estimated(config())
    assert found.peak_memory_bytes is None and "memory, disk and time could not" in found.problems[0]


def test_what_the_run_would_refuse_is_an_error(config: Callable[..., LoadedConfig]) -> None:
    with pytest.raises(UserError, match="lr_warmup_steps"):
        estimated(config(lr_warmup_steps=50))
