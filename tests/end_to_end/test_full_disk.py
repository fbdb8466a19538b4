"""A disk that fills up, or a file that may not grow, at every kind of write of a run: told, nothing lost, and it goes on."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file

from library.core.errors import Exit
from library.core.runtime import run_command
from library.training.needs import disk

Train = Callable[..., Path]

QUICK = {"network_train_unet_only": True, "save_every_n_steps": 2, "save_state": True}

FILES_OF_RUN = {"lora.config.toml", "logs"}


def status_of(train: Train, **options: object) -> int:
    """Exit status of the command."""

    def main() -> None:
        train(**options)

    return run_command(main)


def contents(folder: Path) -> dict[str, str]:
    """Hashes of the LoRA files and states."""
    files = [
        path for path in folder.rglob("*") if path.is_file() and "logs" not in path.parts and path.suffix != ".toml"
    ]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Within the block no file of this process can grow beyond so many bytes."""
    resource = pytest.importorskip("resource", reason="Windows has no limit to a file's size")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")]


@pytest.fixture(scope="module")
def sizes() -> dict[str, int]:
    """Largest file that may be written, by what then fails; the files of these runs have 8, 160, 178 and 357 kB."""
    return {"lora-step00000004.safetensors": 100_000, "lora-step00000004-state": 250_000}


@pytest.mark.parametrize("failing", ["lora-step00000004.safetensors", "lora-step00000004-state"])
def test_a_save_that_fails_leaves_what_was_saved_and_the_run_goes_on(
    failing: str, sizes: dict[str, int], train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    out = train(**QUICK, max_train_steps=3)
    before = contents(out)
    for path in set(out.iterdir()) - {out / "logs"}:
        (out / f".{path.name}.0123abcd.tmp").touch()  # as a run leaves it that was killed
    capsys.readouterr()
    with largest_file(sizes[failing]):
        assert status_of(train, **QUICK, max_train_steps=6, resume="latest") == Exit.DISK_FULL
    told = capsys.readouterr().err
    assert failing in told and "could not be written: File too large" in told and "resume = latest" in told
    assert "Traceback" not in told
    after = contents(out)
    assert before.items() <= after.items()
    assert not hidden(out)
    assert {name for name in after if name not in before} <= {"lora-step00000004.safetensors"}
    assert status_of(train, **QUICK, max_train_steps=5, resume="latest") == 0
    assert len(load_file(out / "lora.safetensors")) == len(load_file(out / "lora-step00000004.safetensors"))


@pytest.mark.parametrize(
    ("size", "failing", "options", "left"),
    [
        (4096, "cache", {"cache_latents_to_disk": True}, {"lora.config.toml"}),
        (4096, "events.out.tfevents", {}, FILES_OF_RUN),
        (100_000, "lora.safetensors", {}, FILES_OF_RUN),
        (1000, "lora.config.toml", {}, set()),
    ],
    ids=["cache", "log", "final file", "configuration"],
)
def test_every_other_write_that_fails_ends_the_run_in_order(
    size: int,
    failing: str,
    options: dict[str, object],
    left: set[str],
    train: Train,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {"network_train_unet_only": True, "max_train_steps": 8, **options}
    with largest_file(size):
        assert status_of(train, **settings) == Exit.DISK_FULL
    told = capsys.readouterr().err
    assert failing in told and "could not be written: File too large" in told and "Traceback" not in told
    assert {path.name for path in (tmp_path / "run").iterdir()} == left
    assert not hidden(tmp_path)


def test_a_disk_that_fills_up_while_a_run_saves(
    disk_of: Callable[[int], Path], train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = disk_of(1_900_000 // 4096 * 4096)
    settings = {**QUICK, "max_train_steps": 8, "output_dir": folder / "out"}
    assert status_of(train, **settings) == Exit.DISK_FULL
    told = capsys.readouterr()
    assert "warning: the disk will be full before the run is over" in told.out and "save_last_n_steps_state" in told.out
    assert "could not be written: No space left on device" in told.err and "Traceback" not in told.err
    saved = {name: hashed for name, hashed in contents(folder / "out").items() if "00000006" not in name}
    states = {name.split("/")[0] for name in saved if "-state" in name}
    assert states == {"lora-step00000002-state", "lora-step00000004-state"}
    assert not hidden(folder)
    subprocess.run(["mount", "-o", "remount,size=8m", str(folder)], check=True)
    assert status_of(train, **settings, resume="latest") == 0
    assert "resuming from" in capsys.readouterr().out
    assert saved.items() <= contents(folder / "out").items()
    assert (folder / "out" / "lora.safetensors").is_file()


@pytest.mark.parametrize("place", ["output_dir", "cache_dir"])
def test_a_disk_without_room_for_one_save_is_told_before_anything_is_loaded(
    place: str, disk_of: Callable[[int], Path], train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = disk_of(40_960)
    assert status_of(train, **QUICK, **{place: folder / "deep" / "er"}, cache_latents_to_disk=True) == Exit.DISK_FULL
    told = capsys.readouterr()
    assert "the disk is too full for this run: its caches and a single save take" in told.err
    assert f"{place} {folder}" in told.err and 'save_precision = "fp16"' in told.err
    begun = {path.name for path in folder.rglob("*") if path.is_file()}
    assert begun <= {"manifest.sqlite"}, "nothing was begun; what was seen of the pictures is noted before"


CASES = {
    "captions": {"cache_text_encoder_outputs_to_disk": True, "network_train_unet_only": True, "flip_aug": True,
                 "cache_latents_to_disk": True, "save_every_n_epochs": 1, "save_state_on_train_end": True},
    "half": {"save_precision": "fp16", "save_every_n_steps": 1, "save_last_n_steps": 2, "network_args": ["conv_dim=4"]},
    "average": {"ema_decay": 0.9, "optimizer_type": "Lion", "save_every_n_steps": 2, "save_state": True,
                "save_last_n_steps_state": 1, "network_dim": 16, "alpha_mask": True, "cache_latents_to_disk": True},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_told_beforehand_is_what_is_written(
    case: str, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "Lion" in CASES[case].values():
        pytest.importorskip("bitsandbytes")
    plans: list[list[disk.Writing]] = []
    honest = disk.planned

    def noted(*arguments: object) -> list[disk.Writing]:
        plans.append(honest(*arguments))  # type: ignore[arg-type]
        return plans[-1]

    monkeypatch.setattr(disk, "planned", noted)
    out = train(**CASES[case], max_train_steps=7)
    predicted = {each.where: each.total for each in plans[0] if each.what != "sample pictures"}
    saved = sum(
        path.stat().st_size for path in out.rglob("*") if path.is_file() and path.suffix in (".safetensors", ".json")
    )
    assert predicted["output_dir"] == pytest.approx(saved, rel=0.05)
    cached = [path.stat().st_size for kind in ("latents", "texts") for path in (tmp_path / "cache" / kind).rglob("*.*")]
    assert predicted.get("cache_dir", 0) == pytest.approx(sum(cached), rel=0.05)
    assert "disk: " in capsys.readouterr().out
    if case == "captions":
        train("again", **CASES[case], max_train_steps=1)
        assert not any(each.where == "cache_dir" for each in plans[1]), "what is cached takes no more room"
