"""Whole runs: what lies in the folder afterwards, what the trainer makes of it, and what a second run does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from library.config.dataset import resolve_datasets
from library.config.load import load_config
from library.config.places import PROJECT_ROOT
from library.core.errors import UserError
from library.core.files import write_atomically
from library.data.checks.preflight import preflight
from library.data.dataset import TrainingData, build_training_data
from library.data.preparing import making, placing, production
from library.data.preparing import prepare as preparing
from library.data.preparing.manifest import NAME as MANIFEST
from library.data.preparing.outcome import Prepared, Request
from library.data.preparing.prepare import prepare
from library.data.preparing.production import WORKSHOP
from tests.data.preparing.conftest import everything, saved, settings_for, smooth

TINY = [
    "--resolution=64",
    "--enable_bucket=true",
    "--min_bucket_reso=32",
    "--max_bucket_reso=128",
    "--bucket_reso_steps=16",
]


def trained_on(*words: str) -> TrainingData:
    """The data of a run, as `train_network.py` makes them."""
    model = f"--pretrained_model_name_or_path={PROJECT_ROOT / 'demo' / 'model'}"
    config = load_config([model, *words]).config
    datasets, _ = resolve_datasets(config)
    return build_training_data(datasets, preflight(datasets).pictures, seed=0, stride=8)


def pixels_of(data: TrainingData) -> dict[str, tuple[torch.Tensor, str]]:
    """Stem of each picture -> what the VAE gets of it, and its caption."""
    steps = range(data.updates_per_epoch)
    examples = [example for step in steps for example in data[step, 0].examples]
    return {Path(example.image).stem: (example.pixels, example.caption) for example in examples}  # type: ignore[misc]


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def fresh(prepared: Prepared) -> list[str]:
    return sorted(prepared.placed.new)


@pytest.mark.parametrize(
    "given", [{"fit": "bucket"}, {"fit": "bucket", "format": "webp"}, {"fit": "area"}, {"fit": "none"}]
)
def test_training_on_the_prepared_pictures_sees_the_same_pixels(
    given: dict[str, str], request_for: Callable[..., Request]
) -> None:
    request = request_for(**given)
    folder = request.source / "10_anna woman"
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "turned.jpg").write_bytes(saved(smooth(300, 200, seed=9), "JPEG", exif=exif))
    (folder / "cyan.jpg").write_bytes(saved(Image.new("CMYK", (200, 90), (200, 9, 0, 30)), "JPEG"))
    cutout = smooth(150, 210, seed=8)
    cutout.putalpha(smooth(150, 210, seed=7).convert("L"))
    (folder / "cutout.png").write_bytes(saved(cutout))
    (folder / "small.png").write_bytes(saved(smooth(40, 40, seed=6)))
    (request.out.parent / "changed").touch()
    prepare(request)
    theirs = pixels_of(trained_on(f"--train_data_dir={request.source}", *TINY))
    ours = pixels_of(
        trained_on(f"--dataset_config={request.out / 'dataset.toml'}", *TINY[: 5 if given["fit"] == "none" else 0])
    )
    assert ours.keys() == theirs.keys() and len(ours) == 10
    for stem, (pixels, caption) in theirs.items():
        assert caption == ours[stem][1]
        assert torch.equal(pixels, ours[stem][0]), stem
    if given["fit"] == "bucket":
        for path in (request.out / "train").rglob(f"*.{request.settings.format}"):
            if path.stem != "small":
                with Image.open(path) as image:
                    assert image.size == tuple(ours[path.stem][0].shape[:0:-1]), "nothing is left to be resized"


def test_masks_weigh_the_loss_as_the_originals_opacity_does(request_for: Callable[..., Request]) -> None:
    request = request_for(fit="bucket", opacity="mask")
    cutout = smooth(150, 210, seed=8)
    cutout.putalpha(smooth(150, 210, seed=7).convert("L"))
    (request.source / "10_anna woman" / "cutout.png").write_bytes(saved(cutout))
    (request.out.parent / "changed").touch()
    prepare(request)

    def masks(*words: str) -> dict[str, torch.Tensor]:
        data = trained_on("--masked_loss=true", *words)
        examples = [example for step in range(data.updates_per_epoch) for example in data[step, 0].examples]
        return {Path(example.image).stem: example.mask for example in examples}  # type: ignore[misc]

    theirs = masks(f"--train_data_dir={request.source}", "--alpha_mask=true", *TINY)
    ours = masks(f"--dataset_config={request.out / 'dataset.toml'}")
    assert ours.keys() == theirs.keys() and float(ours["cutout"].min()) < 0.9
    assert all(torch.equal(mask, ours[stem]) for stem, mask in theirs.items())


def test_a_picture_that_loses_much_is_named(request_for: Callable[..., Request]) -> None:
    request = request_for(fit="square")
    (request.source / "10_anna woman" / "strip.png").write_bytes(saved(smooth(512, 64, seed=9)))
    (request.out.parent / "changed").touch()
    (found,) = [each for each in prepare(request).findings if each.kind == "extreme aspect"]
    assert Path(found.path).name == "strip.png" and found.severity == "warning"
    assert "88% of it is cut away to make it 64x64" in found.message and "--fit area" in found.advice
    told = prepare(request_for(fit="area")).findings
    assert not [each for each in told if each.kind in ("extreme aspect", "cut away")]


def test_validation_pictures_only_validate(request_for: Callable[..., Request]) -> None:
    request = request_for(fit="bucket", validation_split=0.34)
    folder = request.source / "10_anna woman"
    shutil.copy(folder / "0.png", folder / "copy.png")
    (folder / "near.png").write_bytes(saved(Image.open(folder / "1.png").resize((160, 120))))
    (request.out.parent / "changed").touch()
    prepared = prepare(request)
    parts = {outcome.original.path.stem: outcome.part for outcome in prepared.outcomes}
    assert parts["0"] == parts["copy"] and parts["1"] == parts["near"]
    data = trained_on(f"--dataset_config={request.out / 'dataset.toml'}")
    assert data.validation is not None
    held = {data.validation.material.pictures[place].path.stem for place in range(len(data.validation))}
    assert held == {stem for stem, part in parts.items() if part == "validation"} and len(held) >= 2
    assert set(pixels_of(data)) == {stem for stem, part in parts.items() if part == "train"}
    assert sum(len(data[step, 0].examples) for step in range(data.updates_per_epoch)) == 10 * (8 - len(held)), (
        "10 repeats"
    )


def test_a_second_run_does_nothing(request_for: Callable[..., Request], monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_for(validation_split=0.2, opacity="mask", skip_copies=True)
    first = prepare(request)
    assert len(first.placed.new) == 6 * 3 + 1 and (request.out / MANIFEST).exists()
    assert not (request.out / WORKSHOP).exists()
    before = everything(request.out)
    monkeypatch.setattr(production, "make", None)
    second = prepare(request)
    assert not second.placed.new and not second.placed.removed and not second.placed.kept
    before.pop(MANIFEST)
    assert {name: facts for name, facts in everything(request.out).items() if name != MANIFEST} == before


def test_only_what_has_changed_is_made_again(
    request_for: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for()
    folder = request.source / "10_anna woman"
    (request.out.parent / "changed").touch()
    prepare(request)
    times = (folder / "2.png").stat()
    data = saved(smooth(120, 180, seed=77))
    (folder / "2.png").write_bytes(data)
    os.utime(folder / "2.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    (folder / "3.txt").write_text("another caption", encoding="utf-8")
    (folder / "4.png").rename(folder / "four.png")
    (folder / "5.png").unlink()
    made: list[bytes] = []
    monkeypatch.setattr(production, "make", lambda *words: made.append(words[0]) or making.make(*words))
    again = prepare(request)
    assert made.count(data) == 1 and len(made) <= 2  # the renamed one is known by its place
    assert fresh(again) == [f"train/10_anna woman/{name}" for name in ("2.png", "3.txt", "four.png")]
    assert again.gone == ["10_anna woman/4.png", "10_anna woman/5.png"]
    assert (request.out / "train/10_anna woman/5.png").exists()
    pruned = prepare(request_for(prune=True))
    assert sorted(pruned.placed.removed) == [
        f"train/10_anna woman/{name}" for name in ("4.png", "4.txt", "5.png", "5.txt")
    ]
    assert not prepare(request).gone


def test_another_split_moves_pictures_and_other_settings_remake_them(
    request_for: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for(validation_split=0.34, opacity="mask")
    prepare(request)
    with monkeypatch.context() as patch:
        patch.setattr(production, "make", None)  # nothing is made anew
        for seed in range(1, 4):
            moved = prepare(request_for(validation_split=0.34, validation_seed=seed, opacity="mask"))
            listed = {outcome.target for outcome in moved.outcomes}
            assert listed == {
                name for name in files_in(request.out) if name.endswith(".png") and not name.startswith("masks")
            }
            assert sum(name.startswith("validation") for name in listed) == 2
    prepare(request_for(format="jpg"))
    assert {Path(name).suffix for name in files_in(request.out)} == {".jpg", ".txt", ".toml", ".json"}
    assert not (request.out / "validation").exists() and not (request.out / "masks").exists()
    directly = request_for(format="jpg", out=request.out.parent / "fresh")
    prepare(directly)
    assert {name: data for name, (data, _) in everything(directly.out).items() if name.endswith("jpg")} == {
        name: data for name, (data, _) in everything(request.out).items() if name.endswith("jpg")
    }


def test_what_others_wrote_is_kept(request_for: Callable[..., Request]) -> None:
    request = request_for()
    folder = request.out / "train" / "10_anna woman"
    folder.mkdir(parents=True)
    (folder / "1.png").write_bytes(b"somebody's")
    (folder / "own.txt").write_text("mine")
    first = prepare(request)
    assert first.placed.kept == ["train/10_anna woman/1.png"] and (folder / "1.png").read_bytes() == b"somebody's"
    assert any(finding.kind == "kept" and finding.severity == "warning" for finding in first.findings)
    (folder / "0.txt").write_text("edited by hand")
    assert set(prepare(request).placed.kept) == {"train/10_anna woman/1.png", "train/10_anna woman/0.txt"}
    assert (folder / "0.txt").read_text() == "edited by hand"
    assert fresh(prepare(request_for(overwrite=True))) == ["train/10_anna woman/0.txt", "train/10_anna woman/1.png"]
    assert (folder / "0.txt").read_text() == "anna, picture 0" and (folder / "own.txt").read_text() == "mine"
    (folder / "0.txt").unlink()
    assert fresh(prepare(request)) == ["train/10_anna woman/0.txt"]


def test_an_interrupted_run_leaves_no_half_and_is_gone_on_with(
    request_for: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    request, made = request_for(), []

    def interrupted(*words: object) -> making.Product:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(words)
        return making.make(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(production, "make", interrupted)
    monkeypatch.setattr(production, "available_cores", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        prepare(request)
    assert {path.name for path in request.out.iterdir()} == {WORKSHOP}
    again: list[object] = []
    monkeypatch.setattr(production, "make", lambda *words: again.append(words) or making.make(*words))
    assert len(prepare(request).placed.new) == 13 and len(again) == 3
    # And in the midst of being put into place.
    monkeypatch.undo()
    monkeypatch.setattr(preparing, "write_manifest", lambda *_: (_ for _ in ()).throw(UserError("the disk is full")))
    with pytest.raises(UserError, match="full"):
        prepare(request_for(format="webp"))
    monkeypatch.undo()
    last = prepare(request_for(format="webp"))
    assert not last.placed.kept and {Path(name).suffix for name in files_in(request.out)} == {
        ".webp",
        ".txt",
        ".toml",
        ".json",
    }


@pytest.mark.parametrize(
    ("written", "is_first"),
    [(1, True), (3, True), (8, True), (12, True), (13, True), (1, False), (3, False), (6, False)],
)
def test_whatever_a_killed_run_has_put_into_place_is_known_to_be_ours(
    request_for: Callable[..., Request], monkeypatch: pytest.MonkeyPatch, written: int, is_first: bool
) -> None:
    """It is killed after so many of its files, 13 in a new folder; then come another split and another resolution."""
    first, done = request_for(validation_split=0.5), []
    if not is_first:
        prepare(request_for(validation_split=0.5, validation_seed=3, fit="square"))

    def killed(path: Path, write: Callable[[Path], object]) -> None:
        write_atomically(path, write)
        done.append(path)
        if len(done) == written:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(placing, "write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(first)
    stems = [path.stem for part in ("train", "validation") for path in (first.out / part).rglob("*.png")]
    assert len(stems) == len(set(stems)), "no picture is in both parts even now"
    again = {"validation_split": 0.34, "validation_seed": 1, "resolution": [96, 96]}
    last, fresh = prepare(request_for(**again)), request_for(**again, out=first.out.parent / "fresh")
    prepare(fresh)
    assert not last.placed.kept and not [each for each in last.findings if each.kind == "kept"]
    theirs, ours = ({name: data for name, (data, _) in everything(out).items()} for out in (fresh.out, first.out))
    for files in (theirs, ours):
        files.pop(MANIFEST)
        files.pop("dataset.toml")  # its paths are whole
    assert ours == theirs
    toml = (first.out / "dataset.toml").read_text().replace(str(first.out), str(fresh.out))
    assert toml == (fresh.out / "dataset.toml").read_text()


def test_a_folder_that_a_killed_run_has_emptied_does_not_stay(
    request_for: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for()
    prepare(request_for(validation_split=0.5))
    with monkeypatch.context() as patch:
        patch.setattr(placing, "write_atomically", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(request)
    assert not list((request.out / "validation").rglob("*.png"))
    assert len(prepare(request).used) == 6
    assert not (request.out / "validation").exists()
    assert "validation" not in (request.out / "dataset.toml").read_text()


def test_originals_are_out_of_reach(request_for: Callable[..., Request], tmp_path: Path) -> None:
    request = request_for()
    for out in (request.source, request.source / "deeper", request.source / "10_anna woman" / ".." / "new", tmp_path):
        with pytest.raises(UserError, match="never touched"):
            prepare(request_for(out=out))
    link = tmp_path / "link"
    link.symlink_to(request.source)
    with pytest.raises(UserError, match="never touched"):
        prepare(request_for(out=link / "out"))
    request.out.mkdir()
    (request.out / "train").symlink_to(request.source)
    with pytest.raises(UserError, match="where the originals are"):
        prepare(request)
    (request.out / "train").unlink()
    (request.out / "train").mkdir()
    (request.out / "train" / "10_anna woman").symlink_to(request.source / "10_anna woman")
    with pytest.raises(UserError, match="where the originals are"):
        prepare(request_for(overwrite=True))
    (request.out / "train" / "10_anna woman").unlink()
    (request.out / "train" / "10_anna woman").mkdir()
    (request.out / "train" / "10_anna woman" / "0.png").symlink_to(request.source / "10_anna woman" / "0.png")
    assert prepare(request).placed.kept == ["train/10_anna woman/0.png"]
    prepare(request_for(overwrite=True))
    assert not (request.out / "train" / "10_anna woman" / "0.png").is_symlink()


def test_a_folder_that_lies_elsewhere_stays_a_link(request_for: Callable[..., Request], tmp_path: Path) -> None:
    (tmp_path / "changed").touch()
    request = request_for()
    prepare(request)
    copies = request.out / "train" / "10_anna woman"
    copies.rename(tmp_path / "other disk")
    copies.symlink_to(tmp_path / "other disk")
    shutil.rmtree(request.source / "10_anna woman")
    Image.new("RGB", (64, 64)).save(request.source / "another.png")
    assert len(prepare(request_for(prune=True)).placed.removed) == 12
    assert copies.is_symlink() and not list(copies.iterdir())


def test_what_is_pruned_is_out_of_the_originals_reach_too(request_for: Callable[..., Request], tmp_path: Path) -> None:
    (tmp_path / "changed").touch()
    request = request_for()
    prepare(request)
    copies, folder = request.out / "train" / "10_anna woman", request.source / "10_anna woman"
    shutil.rmtree(copies)
    copies.symlink_to(folder)
    for picture in folder.glob("*.*"):
        if picture.suffix != ".txt":
            picture.unlink()
    Image.new("RGB", (64, 64)).save(request.source / "another.png")
    captions = {path: path.read_bytes() for path in folder.iterdir()}
    assert captions
    with pytest.raises(UserError, match="where the originals are"):
        prepare(request_for(prune=True))
    assert {path: path.read_bytes() for path in folder.iterdir()} == captions


def test_another_source_is_refused_and_a_moved_one_is_known(
    request_for: Callable[..., Request], tmp_path: Path
) -> None:
    request = request_for()
    prepare(request)
    other = tmp_path / "others"
    shutil.copytree(request.source, other)
    with pytest.raises(UserError, match="was prepared from"):
        prepare(request_for(source=other))
    request.source.rename(tmp_path / "away")
    moved = prepare(request_for(source=other))
    assert not moved.placed.new and not moved.gone
    (tmp_path / "away").rename(request.source)


def test_a_dry_run_writes_nothing(request_for: Callable[..., Request]) -> None:
    request = request_for(dry_run=True, validation_split=0.34)
    told = prepare(request)
    assert not request.out.exists()
    done = prepare(request_for(validation_split=0.34))
    assert [outcome.target for outcome in told.outcomes] == [outcome.target for outcome in done.outcomes]
    assert [outcome.made for outcome in told.outcomes] == [outcome.made for outcome in done.outcomes]


def test_names_captions_and_faces(request_for: Callable[..., Request]) -> None:
    request = request_for(fit="square", focus="face")
    folder = request.source / "10_anna woman"
    (request.out.parent / "changed").touch()
    for number, name in enumerate(("a.png", "a.webp", "A.bmp", "anna_100_300_64_64.png", "émile 🥋.png")):
        kind = {"webp": "WEBP", "bmp": "BMP"}.get(name.rpartition(".")[2], "PNG")
        (folder / name).write_bytes(saved(smooth(128, 384, seed=20 + number), kind))
    (folder / "a.txt").write_bytes("ünder".encode("utf-16"))
    (folder / "anna.caption").write_bytes("caf\xe9".encode("cp1252"))
    prepared = prepare(request)
    out = request.out / "train" / "10_anna woman"
    names = {path.name for path in out.iterdir()} - {f"{n}{ending}" for n in range(6) for ending in (".png", ".txt")}
    assert names == {
        "A.png", "A.txt", "a_png.png", "a_png.txt", "a_webp.png", "a_webp.txt",
        "anna_50_32_32_32.png", "anna_50_32_32_32.caption", "émile 🥋.png",
    }  # fmt: skip
    assert {(out / name).read_text(encoding="utf-8") for name in ("A.txt", "a_png.txt", "a_webp.txt")} == {"ünder"}
    assert (out / "anna_50_32_32_32.caption").read_bytes() == b"caf\xe9", "a guess is not written down"
    (guessed,) = [
        finding for finding in prepared.findings if finding.kind == "encoding" and finding.severity == "warning"
    ]
    assert guessed.path.endswith("anna.caption") and "copied as it is" in guessed.advice
    kinds = [finding.kind for finding in prepared.findings]
    assert kinds.count("encoding") == 4 and kinds.count("no caption") == 1


def test_copies_are_left_out_where_that_is_asked_for(request_for: Callable[..., Request]) -> None:
    request = request_for()
    folder = request.source / "10_anna woman"
    (request.out.parent / "changed").touch()
    shutil.copy(folder / "0.png", folder / "z copy.png")
    (folder / "z near.jpg").write_bytes(saved(Image.open(folder / "1.png"), "JPEG", quality=80))
    (folder / "broken.png").write_bytes((folder / "1.png").read_bytes()[:500])

    def left_out(**given: object) -> dict[str, str]:
        outcomes = prepare(request_for(**given)).outcomes
        return {outcome.original.path.name: outcome.left_out for outcome in outcomes if outcome.left_out}

    assert left_out() == {"broken.png": "unreadable"}
    assert left_out(skip_copies=True) == {"broken.png": "unreadable", "z copy.png": "copy"}
    assert left_out(skip_near_copies=True) == {
        "broken.png": "unreadable",
        "z copy.png": "copy",
        "z near.jpg": "near copy",
    }
    assert not (request.out / "train/10_anna woman/z near.png").exists()
    assert left_out() == {"broken.png": "unreadable"} and (request.out / "train/10_anna woman/z near.png").exists()


def test_what_could_not_be_read_is_tried_again(
    request_for: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for()
    (request.out.parent / "changed").touch()
    (request.source / "10_anna woman" / "phone.heic").write_bytes(saved(smooth(64, 64)))  # what it is, its bytes tell
    with monkeypatch.context() as patch:
        patch.setattr(production, "make", lambda *_: making.Product(making.Made("unreadable", "needs a plugin.")))
        assert not prepare(request).used
    assert len(prepare(request).used) == 7


def test_settings_that_cannot_be() -> None:
    for settings, word in [
        (settings_for(resolution=[100, 100], fit="square"), "multiples of 8"),
        (settings_for(fit="square", resolution=[64, 128]), "no square"),
        (settings_for(opacity="keep", format="jpg"), "no transparency"),
        (settings_for(background_color="whitish"), "not a colour"),
        (settings_for(max_bucket_reso=48), "max_bucket_reso"),
    ]:
        with pytest.raises(UserError, match=word):
            settings.check()


def test_a_damaged_manifest_is_told(request_for: Callable[..., Request]) -> None:
    request = request_for()
    prepare(request)
    for text in ("{", "[]", '{"version": 1}', '{"version": 99}'):
        (request.out / MANIFEST).write_text(text)
        with pytest.raises(UserError, match=MANIFEST):
            prepare(request)
    (request.out / MANIFEST).unlink()
    assert not prepare(request).placed.kept
    assert np.all([outcome.part == "train" for outcome in prepare(request).outcomes])
