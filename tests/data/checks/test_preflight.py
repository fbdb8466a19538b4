from __future__ import annotations

import struct
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from library.core.errors import UserError
from library.data.checks.findings import Finding, raise_errors, report
from library.data.checks.preflight import fewest_tokens, preflight
from library.data.index.look import Looker

Make = Callable[..., Path]


def said(findings: list[Finding], word: str) -> list[str]:
    return [f"{f.severity} {Path(f.path).name}" for f in findings if word in f"{f.message} {f.advice}"]


@pytest.fixture
def faulty(folder: Make, picture: Make) -> Path:
    """Twelve good pictures, and one of each bad kind."""
    path = folder(12)
    whole = picture(path / "truncated.jpg", (128, 128), caption="alex").read_bytes()
    (path / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (path / "empty.png").write_bytes(b"")
    (path / "page.png").write_bytes(b"<!DOCTYPE html><title>404</title>")
    picture(path / "dot.png", (1, 1), caption="alex")
    picture(path / "strip.png", (10000, 8), caption="alex")
    picture(path / "panorama.png", (900, 100), caption="alex")
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(path / "moves.gif", save_all=True, append_images=frames[1:])
    (path / "moves.txt").write_text("alex", encoding="utf-8")
    return path


@pytest.mark.parametrize(("ending", "kind"), [("gif", "GIF"), ("webp", "WEBP"), ("png", "PNG"), ("tif", "TIFF")])
def test_of_animations_the_first_frame_is_used_with_a_warning(
    folder: Make, subset, dataset, ending: str, kind: str
) -> None:
    path = folder(12)
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(path / f"moves.{ending}", kind, save_all=True, append_images=frames[1:])
    survey = preflight([dataset(subset(path, class_tokens="alex"))])
    assert said(survey.findings, "Its first frame is used") == [f"warning moves.{ending}"]
    assert f"moves.{ending}" in {picture.path.name for picture in survey.pictures}


@pytest.mark.parametrize("change", ["removed", "unreadable"])
def test_files_that_go_while_they_are_looked_at(
    folder: Make, subset, dataset, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Between the scan of the headers and the reading of the whole file."""
    path = folder(12)

    look = Looker.look

    def lose_and_look(self, *listed):
        (path / "03.png").unlink()
        if change == "unreadable":
            (path / "03.png").mkdir()
        return look(self, *listed)

    monkeypatch.setattr(Looker, "look", lose_and_look)
    survey = preflight([dataset(subset(path))])
    assert said(survey.findings, "cannot be read") == ["warning 03.png"] and len(survey.pictures) == 11


def test_every_bad_picture_is_named_in_one_report(faulty: Path, subset, dataset) -> None:
    survey = preflight([dataset(subset(faulty))])
    bad = {"truncated.jpg", "empty.png", "page.png", "dot.png", "strip.png", "panorama.png"}
    assert {Path(f.path).name for f in survey.findings if "left out" in f.advice} == bad
    assert {p.path.name for p in survey.pictures} == {f"{n:02d}.png" for n in range(12)} | {"moves.gif"}
    assert said(survey.findings, "animated") == ["warning moves.gif"]
    assert all(name in report(survey.findings) for name in bad)
    assert "1x1" in report(survey.findings) and "10000x8" in report(survey.findings)
    raise_errors(survey.findings)


def test_strict_stops_with_all_of_them(faulty: Path, subset, dataset) -> None:
    with pytest.raises(UserError) as caught:
        raise_errors(preflight([dataset(subset(faulty))], strict=True).findings)
    assert all(name in str(caught.value) for name in ("truncated.jpg", "empty.png", "page.png", "moves.gif"))


def test_pictures_are_known_by_their_bytes(folder: Make, subset, dataset) -> None:
    path = folder(12)
    (path / "copy.png").write_bytes((path / "00.png").read_bytes())
    survey = preflight([dataset(subset(path))])
    contents = {p.path.name: p.content for p in survey.pictures}
    assert len(set(contents.values())) == 12 and contents["copy.png"] == contents["00.png"]
    assert said(survey.findings, "copy of") == ["notice copy.png"]


def test_a_picture_in_several_subsets_of_a_dataset_is_no_copy_of_itself(
    folder: Make, picture: Make, subset, dataset, tmp_path: Path
) -> None:
    path = folder(12)
    (path / "meta.json").write_text('{"03.png": {"caption": "x"}}', encoding="utf-8")
    survey = preflight([dataset(subset(path), subset(path, metadata_file=path / "meta.json"))])
    assert [(Path(each.path).name, each.message) for each in survey.findings if each.kind == "copy"] == [
        ("03.png", "is in several subsets of a dataset.")
    ]
    for name in ("one", "two"):
        picture(tmp_path / name / "a.png")
    survey = preflight([dataset(subset(tmp_path / "one"), subset(tmp_path / "two"))])
    assert said(survey.findings, f"copy of {tmp_path / 'one' / 'a.png'}") == ["notice a.png"]


def test_near_copies_and_blurred_pictures_are_listed_and_never_fatal(folder: Make, subset, dataset) -> None:
    path = folder(12)
    with Image.open(path / "00.png") as image:
        image.save(path / "again.jpg", quality=80)
        image.resize((128, 128)).save(path / "larger.webp")
    with Image.open(path / "01.png") as image:
        image.filter(ImageFilter.GaussianBlur(6)).save(path / "soft.png")
    Image.new("RGB", (64, 64), "white").save(path / "white.png")
    survey = preflight([dataset(subset(path, class_tokens="alex"))], strict=True)
    alike = f"looks almost like {path / '00.png'}."
    assert said(survey.findings, alike) == ["notice again.jpg", "notice larger.webp"]
    assert said(survey.findings, "looks almost like") == said(survey.findings, alike)
    assert said(survey.findings, "looks blurred") == ["notice soft.png"]
    assert said(survey.findings, "is empty") == ["notice white.png"]
    assert len(survey.pictures) == 16
    raise_errors(survey.findings)


def test_the_same_pictures_at_another_size_are_no_copies(folder: Make, subset, dataset) -> None:
    path = folder(12)
    with Image.open(path / "00.png") as image:
        image.save(path / "again.jpg", quality=80)
    findings = preflight([dataset(subset(path)), dataset(subset(path), resolution=[96, 96])]).findings
    assert said(findings, "looks almost like") == ["notice again.jpg"], "told once"
    assert not said(findings, "copy of")
    regularisation = preflight([dataset(subset(path, is_reg=True))]).findings
    assert not said(regularisation, "looks almost like") and not said(regularisation, "looks blurred")


@pytest.mark.parametrize(
    ("size", "settings", "told"),
    [
        ((64, 64), {"resolution": [96, 96]}, None),  # 1.5 times
        ((60, 60), {"resolution": [96, 96]}, "60x60 and is enlarged 1.6 times to train at 96x96"),
        ((320, 40), {"resolution": [96, 96]}, "320x40 and is enlarged 2.4 times to train at 96x96"),
        ((320, 40), {"resolution": [96, 96], "enable_bucket": True, "max_bucket_reso": 320}, None),
        ((40, 40), {"resolution": [96, 96], "enable_bucket": True, "bucket_no_upscale": True}, None),
        ((40, 40), {"resolution": [32, 32], "enable_bucket": True, "bucket_reso_steps": 64}, None),  # told later
    ],
)
def test_how_much_small_pictures_are_enlarged(
    tmp_path: Path, picture: Make, subset, dataset, size, settings, told: str | None
) -> None:
    picture(tmp_path / "a.png", size, caption="alex")
    findings = preflight([dataset(subset(tmp_path), **settings)]).findings
    assert said(findings, "is enlarged") == (["notice a.png"] if told else [])
    assert told is None or said(findings, told)


@pytest.mark.parametrize(
    ("size", "settings", "told"),
    [
        ((96, 64), {}, None),  # a third of a camera's 3:2
        ((128, 72), {}, ("cut away", "warning", "is 128x72, and 44% of it is cut away to make it 64x64.", "enable_bucket")),
        ((512, 64), {}, ("extreme aspect", "warning", "88% of it is cut away to make it 64x64.", "enable_bucket")),
        ((512, 64), {"enable_bucket": True}, ("extreme aspect", "warning", "88% of it", "min_bucket_reso (64)")),
        ((320, 64), {"enable_bucket": True, "min_bucket_reso": 16, "bucket_reso_steps": 8},
         ("extreme aspect", "notice", "longer than 4:1", "crop it")),
        ((90, 64), {"enable_bucket": True, "bucket_no_upscale": True, "bucket_reso_steps": 64}, None),
    ],
)  # fmt: skip
def test_what_is_cut_far_down_is_told(
    tmp_path: Path, picture: Make, subset, dataset, size, settings, told: tuple[str, str, str, str] | None
) -> None:
    picture(tmp_path / "a.png", size, caption="alex")
    buckets = {"resolution": [64, 64], "min_bucket_reso": 64, "max_bucket_reso": 512} | settings
    findings = preflight([dataset(subset(tmp_path), **buckets)]).findings
    found = [each for each in findings if each.kind in ("cut away", "extreme aspect")]
    assert len(found) == (told is not None)
    if told is not None:
        kind, severity, message, advice = told
        assert (found[0].kind, found[0].severity) == (kind, severity)
        assert message in found[0].message and advice in found[0].advice


def test_a_picture_that_is_transparent_all_over_weighs_nothing(folder: Make, subset, dataset) -> None:
    path = folder(12)
    Image.new("RGBA", (64, 64), (200, 30, 30, 0)).save(path / "ghost.png")
    part = Image.new("RGBA", (64, 64), (200, 30, 30, 0))
    part.paste((200, 30, 30, 255), (0, 0, 9, 9))
    part.save(path / "part.png")
    asked = subset(path, alpha_mask=True, class_tokens="alex")
    findings = preflight([dataset(asked)]).findings
    assert said(findings, "weighs nothing in the loss") == ["warning ghost.png"]
    assert said(findings, "transparent in parts") == ["notice part.png"]
    assert said(preflight([dataset(subset(path, class_tokens="alex"))]).findings, "weighs nothing") == []


def test_pillow_says_nothing_of_its_own_on_large_pictures(folder: Make, subset, dataset) -> None:
    path = folder(12)
    data = bytearray((path / "00.png").read_bytes())
    data[16:24] = struct.pack(">II", 12000, 12000)  # above Pillow's limit, below ours
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (path / "large.png").write_bytes(data)
    with warnings.catch_warnings(record=True) as warned:
        findings = preflight([dataset(subset(path))]).findings
    assert not warned and "warning large.png" in said(findings, "cannot be decoded")


@pytest.mark.parametrize(
    ("count", "severity", "words"),
    [(0, "error", "not one picture"), (1, "warning", "one picture"), (9, "warning", "9 different pictures")],
)
def test_too_few_pictures(tmp_path: Path, folder: Make, subset, dataset, count: int, severity: str, words: str) -> None:
    path = folder(count) if count else tmp_path
    (finding,) = [f for f in preflight([dataset(subset(path))]).findings if words in f.message]
    assert finding.severity == severity
    assert count == 0 or "15 for a character, 20 for a style" in finding.advice


def test_enough_pictures_and_nothing_to_say(folder: Make, subset, dataset) -> None:
    path = folder(20)
    for number, caption in enumerate(sorted(path.glob("*.txt"))):
        caption.write_text(f"alex, pose {number}", encoding="utf-8")
    findings = preflight([dataset(subset(path, trigger_word="alex"))]).findings
    assert [(f.severity, f.kind) for f in findings] == [("notice", "caption files")]


def test_nothing_but_regularisation_pictures(folder: Make, subset, dataset) -> None:
    findings = preflight([dataset(subset(folder(3), is_reg=True))]).findings
    assert said(findings, "No training data")


def test_captions_without_the_trigger(folder: Make, subset, dataset) -> None:
    path = folder(12, caption="alex, boxing")
    (path / "03.txt").write_text("alexander, boxing", encoding="utf-8")
    (path / "04.txt").write_text("boxing\nalex", encoding="utf-8")
    asked = subset(path, trigger_word="alex", class_word="man")
    findings = preflight([dataset(asked)]).findings
    assert said(findings, "does not contain the trigger word 'alex'") == ["warning 03.txt", "warning 04.txt"]
    assert said(findings, "has 2 lines") == ["notice 04.txt"]
    prefixed = replace(asked, captions=replace(asked.captions, caption_prefix="alex,"))
    assert said(preflight([dataset(prefixed)]).findings, "does not contain the trigger word") == []
    assert said(preflight([dataset(replace(asked, is_reg=True))]).findings, "does not contain the trigger word") == []


def test_captions_that_are_surely_too_long(folder: Make, subset, dataset) -> None:
    path = folder(12)
    (path / "03.txt").write_text(", ".join(["word"] * 38), encoding="utf-8")
    (path / "04.txt").write_text(", ".join(["word"] * 39), encoding="utf-8")  # 77 tokens
    (long,) = [each for each in preflight([dataset(subset(path))]).findings if each.kind == "long caption"]
    assert (Path(long.path).name, long.severity) == ("04.txt", "warning")
    assert "has 77 tokens, 2 more than are read" in long.message and "max_token_length = 150" in long.advice
    (path / "05.txt").write_text(", ".join(["word"] * 114), encoding="utf-8")  # 227 tokens
    assert said(preflight([dataset(subset(path))]).findings, "is 225 at the most") == ["warning 05.txt"]
    (path / "05.txt").write_text("word", encoding="utf-8")
    assert said(preflight([dataset(subset(path))], max_token_length=150).findings, "tokens") == []


def test_captions_are_counted_as_they_are_trained(folder: Make, subset, dataset) -> None:
    """With prefix and suffix, of several options one, without the mark of kept tokens; and by the given tokenizer."""
    path = folder(12)
    words = ", ".join(["word"] * 36)  # 71 tokens
    (path / "03.txt").write_text(f"{words}, {{one|two|three}}", encoding="utf-8")
    (path / "04.txt").write_text(f"a ||| {words}", encoding="utf-8")

    def too_long(**settings: object) -> list[str]:
        return said(preflight([dataset(subset(path, **settings))]).findings, "more than are read")

    assert too_long() == ["warning 03.txt"]
    assert too_long(enable_wildcard=True, keep_tokens_separator="|||") == []
    assert too_long(enable_wildcard=True, caption_suffix=", the end, now, here") == ["warning 03.txt", "warning 04.txt"]
    asked: list[str] = []

    def count(caption: str) -> int:
        asked.append(caption)
        return 76 if "|||" in caption else 75

    assert said(preflight([dataset(subset(path))], count_tokens=count).findings, "tokens") == ["warning 04.txt"]
    assert len(asked) == 2  # the others have fewer bytes than tokens are allowed


def test_fewest_tokens_is_what_clip_splits_first() -> None:
    assert fewest_tokens("a man's hat, 42!! snake_case") == len(
        ["a", "man", "'s", "hat", ",", "4", "2", "!!", "snake", "_", "case"]
    )


def test_small_pictures_odd_masks_and_wrong_colours(
    tmp_path: Path, folder: Make, picture: Make, subset, dataset
) -> None:
    path = folder(12, caption="x")
    picture(tmp_path / "masks" / "00.png", (64, 64))
    for number in range(1, 12):
        picture(tmp_path / "masks" / f"{number:02d}.png", (96, 64) if number % 3 == 2 else (64, 64))
    picture(tmp_path / "masks" / "01.png", (64, 32))
    (tmp_path / "masks" / "03.png").write_bytes(b"nothing")
    asked = subset(path, conditioning_data_dir=str(tmp_path / "masks"), background_color="whiteish")
    findings = preflight([dataset(asked, resolution=[256, 256], enable_bucket=True, max_bucket_reso=500)]).findings
    assert said(findings, "not the same shape") == ["warning 01.png"]
    assert said(findings, "the mask is not a picture") == ["error 03.png"]
    assert len(said(findings, "is enlarged 4.0 times to train at 256x256")) == 8
    assert said(findings, "'whiteish' is not a colour")[0].startswith("error")
    assert said(findings, "32 and 512 are used")


def test_settings_without_effect_are_told(folder: Make, picture: Make, subset, dataset) -> None:
    training = subset(folder(10), face_crop_aug_range=[1.0, 2.0], cache_info=True)
    surplus = subset(folder(12, "reg"), is_reg=True)
    findings = preflight([dataset(training, surplus)]).findings
    assert len(said(findings, "face_crop_aug_range has no effect")) == 1
    assert len(said(findings, "cache_info has no effect")) == 1
    assert said(findings, "regularisation picture beyond") == ["notice 10.png", "notice 11.png"]
    picture(training.image_dir / "anna_32_32_16_16.png", caption="alex")
    assert said(preflight([dataset(training)]).findings, "face_crop_aug_range") == []


def test_a_hundred_pictures_take_less_than_three_seconds_of_computing(tmp_path: Path, subset, dataset) -> None:
    levels = np.linspace(0, 255, 1024)
    gradient_HWC = np.stack([np.add.outer(levels, levels) / 2, *np.meshgrid(levels, levels)], axis=-1).astype(np.uint8)
    for number in range(100):
        picture = Image.fromarray(np.roll(gradient_HWC, 10 * number, axis=1))
        picture.save(tmp_path / f"{number:03d}.jpg", quality=92)
    started = time.process_time()
    survey = preflight([dataset(subset(tmp_path), resolution=[512, 512])])
    assert time.process_time() - started < 3
    assert len(survey.pictures) == 100


def test_reports_put_like_with_like() -> None:
    findings = [
        Finding("odd", "notice", "c", "is odd."),
        *(Finding("bad", "warning", f"file{n}", "is bad.", "Mend it.") for n in range(10)),
        Finding("no pictures", "error", "", "Nothing at all."),
    ]
    lines = report(findings).split("\n")
    assert lines[0] == "error: Nothing at all."
    assert lines[1] == "warning: each of 10 files: is bad. Mend it."
    assert lines[2].strip() == "file0" and lines[10].strip() == "and 2 more"
    assert lines[11] == "notice: c: is odd."


def test_near_copies_are_judged_upright(tmp_path: Path, subset, dataset) -> None:
    """A phone's picture is a near copy of the same saved upright; one that stands on its head is not."""
    cells_HW = np.random.default_rng(3).integers(0, 256, (9, 12), dtype=np.uint8)
    upright = Image.fromarray(cells_HW).resize((120, 90), Image.Resampling.NEAREST).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.save(tmp_path / "0.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "1.jpg", exif=exif, quality=95)
    upright.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "2.jpg", quality=95)
    exif[0x0112] = 3
    upright.save(tmp_path / "3.jpg", exif=exif, quality=95)
    findings = preflight([dataset(subset(tmp_path))]).findings
    found = {Path(each.path).name: Path(each.message[:-1]).name for each in findings if each.kind == "near copy"}
    assert found == {"1.jpg": "0.png", "3.jpg": "2.jpg"}


def test_a_flat_picture_is_empty_and_nothing_else(folder: Make, subset, dataset) -> None:
    path = folder(12)
    for name, colour in {"white": "white", "black": "black", "red": "red"}.items():
        Image.new("RGB", (64, 64), colour).save(path / f"{name}.png")
    findings = preflight([dataset(subset(path, class_tokens="alex"))]).findings
    looks = {"empty", "blurred", "dark", "over-exposed"}
    found = [(each.kind, Path(each.path).name) for each in findings if each.kind in looks]
    assert found == [("empty", "black.png"), ("empty", "red.png"), ("empty", "white.png")]
