"""Bad pictures, captions and caches in whole runs of the real entry point; each case by itself is in tests/data."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from library.core.errors import Exit, UserError
from tests.data.cache.shard_files import records

ROOT = Path(__file__).resolve().parents[2]

BAD = {"cut.jpg", "cut.png", "empty.png", "page.png", "bomb.png", "dot.png", "strip.png"}
"""Those that are left out."""


def noise(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def bomb(side: int) -> bytes:
    """A PNG that claims to be so large."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(bytes(99))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Twelve good pictures, of kinds that take some care, and one of each bad kind."""
    folder = tmp_path / "mixed" / "1_hero man"
    folder.mkdir(parents=True)
    for number in range(5):
        noise(number).save(folder / f"{number}.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    noise(5, (96, 48)).save(folder / "turned.jpg", exif=turned)
    noise(6).convert("CMYK").save(folder / "inks.jpg")
    Image.fromarray(np.random.default_rng(7).integers(0, 65536, (64, 64), dtype=np.uint16)).save(folder / "deep.png")
    see_through = noise(8).convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize((64, 64)))
    see_through.save(folder / "see_through.png")
    noise(9).save(folder / "moves.gif", save_all=True, append_images=[noise(10)])
    noise(11).save(folder / "🥊 same name.png")
    noise(12).save(folder / "🥊 same name.jpg")
    for path in list(folder.iterdir()):
        path.with_suffix(".txt").write_text("hero, man", encoding="utf-8")
    for name in ("cut.jpg", "cut.png"):
        noise(13, (128, 128)).save(folder / name)
        (folder / name).write_bytes((folder / name).read_bytes()[:9000])
    (folder / "empty.png").write_bytes(b"")
    (folder / "page.png").write_bytes(b"<!DOCTYPE html><title>404</title>")
    (folder / "bomb.png").write_bytes(bomb(20000))
    noise(14, (1, 1)).save(folder / "dot.png")
    noise(15, (10000, 8)).save(folder / "strip.png")
    return folder.parent


def test_bad_pictures_are_left_out_and_the_others_train(mixed: Path, train, capsys: pytest.CaptureFixture[str]) -> None:
    out = train(train_data_dir=mixed, max_train_epochs=1)
    said = capsys.readouterr().out
    assert all(name in said for name in BAD)
    for words in (
        "animated",
        "same name as",
        "cannot be decoded",
        "web page",
        "too many pixels",
        "only 1x1",
        "10000x8",
    ):
        assert words in said, words
    with safe_open(out / "lora.safetensors", framework="pt") as file:
        assert file.metadata()["ss_num_train_images"] == "12"
        buckets = json.loads(file.metadata()["ss_bucket_info"])["buckets"]
    assert [48, 80] in [bucket["resolution"] for bucket in buckets.values()]  # the turned one stands upright
    assert all(tensor.isfinite().all() for tensor in load_file(out / "lora.safetensors").values())


def test_under_strict_all_of_them_stop_the_run_before_a_model_is_read(mixed: Path, train, tmp_path: Path) -> None:
    unreadable = tmp_path / "model.safetensors"
    unreadable.write_bytes(b"not a model")
    with pytest.raises(UserError) as caught:
        train(train_data_dir=mixed, strict=True, pretrained_model_name_or_path=unreadable)
    assert all(name in str(caught.value) for name in BAD) and "model.safetensors" not in str(caught.value)


def test_captions_as_people_have_them(tmp_path: Path, train, capsys: pytest.CaptureFixture[str]) -> None:
    """What the files say reaches the run, whatever their encoding; what is missing or too long is told."""
    folder = tmp_path / "captions"
    folder.mkdir()
    files = {
        "mark": "hero, café".encode("utf-8-sig"),
        "wide": "hero, café".encode("utf-16"),
        "western": "hero, café".encode("cp1252"),
        "emoji": "hero, 🥊".encode(),
        "empty": b" \r\n",
        "nobody": b"red hair",
        "long": ("hero, " + "otorhinolaryngologist " * 20).encode(),  # 22 words and signs, but 162 tokens
    }
    for number, (name, data) in enumerate(files.items()):
        noise(number).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_bytes(data)
    noise(20).save(folder / "missing.png")
    out = train(train_data_dir=folder, trigger_word="hero", max_train_steps=1)
    said = capsys.readouterr().out
    for told in (
        "western.txt: is not UTF-8; it is read as Windows-1252",
        "wide.txt: is not UTF-8; it is read as UTF-16",
        "empty.txt: is empty",
        "missing.png: has no caption",
        "nobody.txt: the caption does not contain the trigger word 'hero'",
        "long.txt: the caption has 162 tokens, 87 more than are read. Shorten it, or set max_token_length = 225.",
        "There are 8 different pictures to train on. Advised: 15 for a character, 20 for a style.",
    ):
        assert told in said, told
    with safe_open(out / "lora.safetensors", framework="pt") as file:
        (tags,) = json.loads(file.metadata()["ss_tag_frequency"]).values()
    assert tags["café"] == 3 and tags["🥊"] == 1 and tags["hero"] == 5


def test_any_name_will_do(pictures: Path, train, tmp_path: Path) -> None:
    """Emoji, accents, spaces and more than 260 characters: for pictures, caches, logs, files and states."""
    root = tmp_path / "ü 🥊 [1] {x}" / ("long " * 30).strip() / ("longer " * 20).strip()
    shutil.copytree(pictures, root / "pictures")
    names = {"output_name": "alex 🥊 é", "cache_dir": root / "cache", "logging_dir": root / "logs"}
    settings = {**names, "train_data_dir": root / "pictures", "cache_latents_to_disk": True, "output_dir": root / "out"}
    train(**settings, max_train_steps=1, save_state=True)
    assert load_file(root / "out" / "alex 🥊 é.safetensors")
    assert (root / "out" / "alex 🥊 é-state").is_dir()
    assert list((root / "cache").rglob("*.data")) and list((root / "logs").rglob("events*"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_the_terminal_cannot_show_do_no_harm(tmp_path: Path) -> None:
    """A name that is not UTF-8, and an emoji in a terminal of Windows-1252."""
    for name in (b"\xff.png", "🥊.png".encode()):
        with Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).open("wb") as file:
            noise(1).save(file, "PNG")
    ran = subprocess.run(
        [sys.executable, "-m", "library.cli.main", "check", "--train_data_dir", str(tmp_path)],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
    )
    assert ran.returncode == 0, ran.stderr
    assert rb"\udcff.png" in ran.stdout and rb"\U0001f94a.png" in ran.stdout and b"2 pictures" in ran.stdout


@contextmanager
def meanwhile(ready: Callable[[], bool], act: Callable[[], object]) -> Iterator[None]:
    """Within the block, which trains, do something as soon as something is true."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            if ready():
                act()
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_picture_that_goes_during_the_run_ends_it(pictures: Path, train, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(pictures / "1_hero man", folder)
    first = tmp_path / "run" / "lora-step00000002.safetensors"
    with (
        meanwhile(first.exists, (folder / "3.png").unlink),
        pytest.raises(UserError, match=r"3\.png: was there when the run began") as caught,
    ):
        train(train_data_dir=folder, max_train_steps=100, save_every_n_steps=2, save_last_n_steps=2)
    assert caught.value.exit_code == Exit.MISTAKE
    saved = [load_file(file) for file in first.parent.glob("*.safetensors")]
    assert saved and all(tensor.isfinite().all() for tensors in saved for tensor in tensors.values())


def test_a_picture_that_changes_during_the_run_is_told_by_workers_too(
    pictures: Path, models: Callable[..., Path], tmp_path: Path
) -> None:
    """Another picture under its name, with its time stamp, while another process reads."""
    folder = tmp_path / "pictures"
    shutil.copytree(pictures / "1_hero man", folder)
    stamp = (folder / "3.png").stat()
    noise(99).save(tmp_path / "other.png")
    os.utime(tmp_path / "other.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    options = {
        "pretrained_model_name_or_path": models("sd15"), "train_data_dir": folder, "resolution": 64, "max_train_steps": 1000,
        "save_every_n_steps": 2, "save_last_n_steps": 2, "max_data_loader_n_workers": 1, "output_dir": tmp_path / "run",
    }  # fmt: skip
    argv = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    command = [sys.executable, str(ROOT / "train_network.py"), *argv]
    with (
        subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, encoding="utf-8"
        ) as run,
        meanwhile(
            lambda: any((tmp_path / "run").glob("*-step*.safetensors")),
            lambda: (tmp_path / "other.png").replace(folder / "3.png"),
        ),
    ):
        try:
            _, said = run.communicate(timeout=200)
        finally:
            run.kill()
    assert run.returncode == Exit.MISTAKE
    assert "3.png: was changed since the run began" in said and "Traceback" not in said


def cached(tmp_path: Path) -> dict[str, bytes]:
    """The entries of the cache of latents, by key."""
    return {record.key: record.payload() for record in records(tmp_path / "cache" / "latents")}


def test_caches_are_made_anew_for_what_changed_and_mended_where_damaged(
    train, models: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tmp_path / "model"
    shutil.copytree(models("sd15"), model)
    settings = {"pretrained_model_name_or_path": model, "cache_latents_to_disk": True, "max_train_steps": 2}
    first = load_file(train(**settings) / "lora.safetensors")
    kept = cached(tmp_path)
    assert len(kept) == 7

    lost, flipped, *_ = records(tmp_path / "cache" / "latents")
    lost.write(0, bytes(lost.end - lost.offset))
    flipped.flip(8 * (flipped.length - 9))
    again = load_file(train(**settings) / "lora.safetensors")
    assert (
        sum("entries that are not whole are struck out, and made anew" in line.message for line in caplog.records) == 1
    )
    assert cached(tmp_path) == kept
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())

    (vae,) = (model / "vae").glob("*.safetensors")
    stamp, tensors = vae.stat(), load_file(vae)
    tensors["encoder.conv_in.bias"] += 0.5
    save_file(tensors, vae, {"format": "pt"})
    os.utime(vae, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert vae.stat().st_size == stamp.st_size
    other = load_file(train(**settings) / "lora.safetensors")
    assert len(cached(tmp_path)) == 14
    assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items())


def overflowing(model: Path, folder: Path, weight: float) -> Path:
    """A copy of a model whose VAE has this first weight everywhere: pictures that are not grey overflow in it."""
    shutil.copytree(model, folder)
    (vae,) = (folder / "vae").glob("*.safetensors")
    tensors = load_file(vae)
    tensors["encoder.conv_in.weight"] = torch.full_like(tensors["encoder.conv_in.weight"], weight)
    save_file(tensors, vae, {"format": "pt"})
    return folder


def test_a_vae_that_overflows_in_fp16_works_in_fp32(
    train, models: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = overflowing(models("sd15"), tmp_path / "model", 5e4)
    out = train(pretrained_model_name_or_path=model, mixed_precision="fp16", max_train_steps=2)
    assert "overflows in float16" in caplog.text
    assert all(tensor.isfinite().all() for tensor in load_file(out / "lora.safetensors").values())


@pytest.mark.parametrize("where", ["cache", "step", "validation"])
def test_a_picture_that_no_precision_can_encode_is_named(
    where: str, train, models: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (64, 64), (127, 127, 128)).save(folder / f"{number}.png")
    Image.new("RGB", (64, 64), "white").save(folder / "white.png")
    model = overflowing(models("sd15"), tmp_path / "model", 2e18)
    split = {"validation_split": 1 / 7, "validation_seed": 1} if where == "validation" else {}
    with pytest.raises(UserError, match=r"white\.png: the VAE's latents are not finite") as caught:
        train(
            pretrained_model_name_or_path=model, train_data_dir=folder, cache_latents=where == "cache",
            max_train_steps=20, **split,
        )  # fmt: skip
    assert caught.value.exit_code == Exit.BROKEN_VALUES
    assert not any(str(number) + ".png" in str(caught.value) for number in range(6))
    assert not (tmp_path / "run" / "lora.safetensors").exists()
