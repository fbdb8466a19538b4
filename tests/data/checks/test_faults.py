"""Bad pictures and captions as real files, from the folder to what is trained."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from library.core.errors import UserError
from library.data.checks.findings import raise_errors
from library.data.checks.preflight import preflight
from library.data.dataset import TrainingData, build_training_data
from library.data.examples import all_placements, key_of_latents
from library.data.index.sources import Survey

SIDE = 64


def saved(image: Image.Image, path: Path, kind: str | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, kind, **options)
    return path


def noise(seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def build(datasets, survey: Survey | None = None) -> TrainingData:
    survey = survey or preflight(datasets)
    raise_errors(survey.findings)
    return build_training_data(datasets, survey.pictures, seed=1, stride=8)


def trained(data: TrainingData) -> dict[str, np.ndarray]:
    """What the model is given of each picture, by its file's name: (H, W, 3) from 0 to 255."""
    steps = [data[step, 0].examples for step in range(data.updates_per_epoch)]
    return {Path(e.image).name: (e.pixels.permute(1, 2, 0).numpy() + 1) * 127.5 for batch in steps for e in batch}


def kinds_by_name(survey: Survey) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for finding in survey.findings:
        found.setdefault(Path(finding.path).name, set()).add(finding.kind)
    return found


def near(pixels_HWC: np.ndarray, colour: tuple[int, int, int], within: float = 3) -> bool:
    return bool(np.abs(pixels_HWC - colour).max() <= within)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", ["JPEG", "progressive JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
def test_cut_short_at_any_place_a_picture_is_left_out(tmp_path: Path, subset, dataset, kind: str) -> None:
    name, options = kind.split()[-1], {"progressive": True} if kind.startswith("progressive") else {}
    saved(noise(0), tmp_path / "whole.png")
    data = saved(noise(1, (128, 128)), tmp_path / f"cut.{name.lower()}", name, **options).read_bytes()
    datasets = [dataset(subset(tmp_path, class_tokens="anna"))]
    for length in (1, 40, len(data) // 4, len(data) // 2, len(data) * 9 // 10):
        (tmp_path / f"cut.{name.lower()}").write_bytes(data[:length])
        survey = preflight(datasets)
        assert [picture.path.name for picture in survey.pictures] == ["whole.png"], length
        assert "unreadable" in kinds_by_name(survey)[f"cut.{name.lower()}"]
        with pytest.raises(UserError, match=f"cut.{name.lower()}"):
            raise_errors(preflight(datasets, strict=True).findings)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_pictures_train_upright_at_their_upright_size(
    tmp_path: Path, subset, dataset, kind: str, orientation: int
) -> None:
    upright = Image.new("RGB", (96, 64), "white")
    upright.paste((200, 0, 0), (0, 0, 48, 32))
    upright.paste((0, 0, 200), (0, 32, 48, 64))
    # A camera that is turned stores the picture turned the other way; EXIF 2.3's table 6 says how to show it.
    turns = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT], 3: [Image.Transpose.ROTATE_180], 4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_90], 6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_270], 8: [Image.Transpose.ROTATE_270],
    }  # fmt: skip
    stored = upright
    for turn in turns.get(orientation, []):
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    exact = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    saved(stored, tmp_path / f"a.{kind.lower()}", kind, exif=exif, **exact.get(kind, {}))
    datasets = [dataset(subset(tmp_path, class_tokens="anna"), enable_bucket=True)]
    survey = preflight(datasets)
    assert survey.pictures[0].size == (96, 64)
    data = build(datasets, survey)
    ((_, pixels_HWC),) = trained(data).items()
    assert pixels_HWC.shape[1] > pixels_HWC.shape[0]
    height, width, _ = pixels_HWC.shape
    at = [pixels_HWC[y * height // 8, x * width // 8] for x, y in ((1, 2), (1, 6), (7, 2), (7, 6))]
    for found, expected in zip(at, ((200, 0, 0), (0, 0, 200), (255, 255, 255), (255, 255, 255))):
        assert np.abs(found - expected).max() <= 6
    assert data[0, 0].examples[0].geometry.original_size == (64, 96)


def see_through(mode: str) -> tuple[Image.Image, dict[str, object]]:
    """Red on the right; on the left green that is not to be seen."""
    image = Image.new("RGBA", (SIDE, SIDE), (200, 0, 0, 255))
    image.paste((0, 255, 0, 0), (0, 0, SIDE // 2, SIDE))
    if mode == "RGBA":
        return image, {}
    if mode == "LA":
        return image.convert("LA"), {}
    palette = Image.new("P", (SIDE, SIDE), 1)
    palette.putpalette([0, 255, 0, 200, 0, 0])
    palette.paste(0, (0, 0, SIDE // 2, SIDE))
    return palette, {"transparency": 0}


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "P"), ("GIF", "P"), ("WEBP", "RGBA"), ("TIFF", "RGBA"), ("AVIF", "RGBA")],
)
def test_what_is_hidden_behind_transparency_is_never_trained(
    tmp_path: Path, subset, dataset, kind: str, mode: str
) -> None:
    image, options = see_through(mode)
    lossless = {"WEBP": {"lossless": True, "exact": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}
    saved(image, tmp_path / f"a.{kind.lower()}", kind, **options, **lossless.get(kind, {}))
    filled = build([dataset(subset(tmp_path, class_tokens="anna", background_color="#0a141e"))])
    ((_, pixels_HWC),) = trained(filled).items()
    right = (200, 0, 0) if mode != "LA" else (60, 60, 60)
    assert near(pixels_HWC[:, : SIDE // 2 - 2], (10, 20, 30)) and near(pixels_HWC[:, SIDE // 2 + 2 :], right, 5)
    masked = build([dataset(subset(tmp_path, class_tokens="anna", alpha_mask=True))])
    assert masked[0, 0].examples[0].mask[0, 0].tolist() == [0.0] * 4 + [1.0] * 4


def test_grey_of_16_bits_keeps_its_levels(tmp_path: Path, subset, dataset) -> None:
    levels_HW = np.repeat(np.linspace(0, 65535, SIDE).astype(np.uint16)[None], SIDE, axis=0)
    saved(Image.fromarray(levels_HW), tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode.startswith("I;16")
    ((_, pixels_HWC),) = trained(build([dataset(subset(tmp_path, class_tokens="anna"))])).items()
    assert np.abs(pixels_HWC - (levels_HW / 257)[..., None]).max() <= 1


def inks_profile() -> bytes:
    """An ICC profile (version 2, lut8) of a press whose cyan ink prints red: Lab (50, 60, 40); the others darken paper."""
    corners = []
    for number in range(16):  # the first ink varies slowest
        cyan, magenta, yellow, black = (number >> shift & 1 for shift in (3, 2, 1, 0))
        light, a, b = (50, 60, 40) if cyan else (100, 0, 0)
        corners += [round(light * (1 - (magenta + yellow + black) / 3) * 2.55), a + 128, b + 128]
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * (place % 4 == 0) for place in range(9)))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4 + bytes(corners) + ramp * 3
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    text = b"text" + bytes(4) + b"none\0"
    name = b"desc" + bytes(4) + struct.pack(">I", 5) + b"inks\0" + bytes(78)
    body, table = b"", b""
    for tag, data in ((b"desc", name), (b"cprt", text), (b"wtpt", white), (b"A2B0", lut)):
        table += tag + struct.pack(">II", 128 + 4 + 4 * 12 + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = 128 + 4 + len(table) + len(body)
    header = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02100000, b"prtr", b"CMYK", b"Lab ") + bytes(12) + b"acsp"
    header += bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", 4) + table + body


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_are_printed_with_their_own_profile(tmp_path: Path, subset, dataset, kind: str) -> None:
    image = Image.new("CMYK", (SIDE, SIDE), (0, 0, 0, 0))
    image.paste((255, 0, 0, 0), (SIDE // 2, 0, SIDE, SIDE))
    exact = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    saved(image, tmp_path / f"press.{kind.lower()}", kind, icc_profile=inks_profile(), **exact)
    saved(image, tmp_path / f"none.{kind.lower()}", kind, **exact)
    found = trained(build([dataset(subset(tmp_path, class_tokens="anna"))]))
    red, none = found[f"press.{kind.lower()}"], found[f"none.{kind.lower()}"]
    assert near(red[:, :24], (255, 255, 255)) and near(none[:, :24], (255, 255, 255))
    # Lab (50, 60, 40) to sRGB by CIE's formulae, D50 adapted to D65 after Bradford, is (214, 60, 55).
    assert near(red[:, 40:], (214, 60, 55), 6)
    assert none[:, 40:, 0].max() < 60 and none[:, 40:, 1:].min() > 120


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_what_moves_the_first_frame_is_trained(tmp_path: Path, subset, dataset, kind: str) -> None:
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ((200, 0, 0), (0, 0, 200), (0, 200, 0))]
    saved(frames[0], tmp_path / f"a.{kind.lower()}", kind, save_all=True, append_images=frames[1:])
    datasets = [dataset(subset(tmp_path, class_tokens="anna"))]
    survey = preflight(datasets)
    assert "animated" in kinds_by_name(survey)[f"a.{kind.lower()}"]
    ((_, pixels_HWC),) = trained(build(datasets, survey)).items()
    assert near(pixels_HWC, (200, 0, 0), 6)


def test_a_picture_of_another_kind_than_its_ending_says_is_told_and_trained(tmp_path: Path, subset, dataset) -> None:
    for place, (name, kind) in enumerate((("a.png", "JPEG"), ("b.webp", "TIFF"), ("c.JPG", "JPEG"), ("d.tif", "TIFF"))):
        saved(noise(place), tmp_path / name, kind)
    saved(noise(9), tmp_path / "e.jpeg", "MPO", save_all=True, append_images=[noise(10)])
    datasets = [dataset(subset(tmp_path, class_tokens="anna"))]
    survey = preflight(datasets, manifest=tmp_path / "manifest.sqlite")
    again = preflight(datasets, manifest=tmp_path / "manifest.sqlite")
    for found in (survey, again):
        told = {Path(each.path).name: each.message.split()[2] for each in found.findings if each.kind == "wrong type"}
        assert told == {"a.png": "JPEG", "b.webp": "TIFF"} and len(found.pictures) == 5


def claiming(kind: str, side: int) -> bytes:
    """A small picture whose header says that it is a square of that side."""
    name, _, variant = kind.partition(" ")
    if name == "PNG":
        header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        chunks = [header, b"IDAT" + zlib.compress(bytes(99)), b"IEND"]
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
        )
    file = io.BytesIO()
    seen = Image.new("RGBA" if variant == "extended" else "RGB", (32, 32))
    seen.save(file, name, **({"lossless": True} if variant == "lossless" else {}))
    data = bytearray(file.getvalue())
    if name == "JPEG":
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">HH", side, side)
    elif name == "GIF":
        data[6:10] = struct.pack("<HH", side, side)
    elif name == "AVIF":
        place = data.index(b"ispe") + 8
        data[place : place + 8] = struct.pack(">II", side, side)
    elif variant == "lossless":
        place = data.index(b"VP8L") + 9
        data[place : place + 4] = struct.pack("<I", (side - 1) | (side - 1) << 14)
    elif variant == "extended":
        place = data.index(b"VP8X") + 12
        data[place : place + 6] = (side - 1).to_bytes(3, "little") * 2
    else:
        place = data.index(b"\x9d\x01\x2a") + 3
        data[place : place + 4] = struct.pack("<HH", side, side)
    return bytes(data)


BOMBS = {
    "PNG": 20000, "JPEG": 20000, "GIF": 20000, "AVIF": 20000, "WEBP lossy": 16383, "WEBP lossless": 16383,
    "WEBP extended": 20000,
}  # fmt: skip
"""Sides; WebP's own header has no more than 14 bits for one."""


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_headers_of_bombs_are_refused_at_once_and_take_no_memory(
    tmp_path: Path, subset, dataset, decoded: list[int]
) -> None:
    saved(noise(0), tmp_path / "whole.png")
    for kind, side in BOMBS.items():
        (tmp_path / f"{kind}.{kind.split()[0].lower()}").write_bytes(claiming(kind, side))
    tracemalloc.start()
    survey = preflight([dataset(subset(tmp_path, class_tokens="anna"))])
    assert decoded and set(decoded) == {SIDE * SIDE}, "of the whole one alone"
    assert tracemalloc.get_traced_memory()[1] < 3e7
    tracemalloc.stop()
    assert [picture.path.name for picture in survey.pictures] == ["whole.png"]
    refused = {Path(f.path).stem: f.message for f in survey.findings if f.kind == "unreadable"}
    assert set(refused) == set(BOMBS)
    for kind in set(BOMBS) - {"AVIF"}:
        assert "too many pixels" in refused[kind], kind


def test_pictures_of_one_name_have_one_caption_and_latents_of_their_own(tmp_path: Path, subset, dataset) -> None:
    for seed, name in enumerate(("a.png", "a.jpg", "a.webp")):
        saved(noise(seed), tmp_path / name)
    (tmp_path / "a.txt").write_text("anna", encoding="utf-8")
    datasets = [dataset(subset(tmp_path))]
    survey = preflight(datasets)
    assert sum(finding.kind == "same name" for finding in survey.findings) == 2
    data = build(datasets, survey)
    assert {example.caption for step in range(3) for example in data[step, 0].examples} == {"anna"}
    assert len(keys_of(data)) == 3


def keys_of(data: TrainingData) -> set[str]:
    """Under which the pictures' latents are cached."""
    material = data.material
    return {
        key_of_latents(material, picture, placement, "vae")
        for picture, size in zip(material.pictures, material.sizes)
        for placement in all_placements(picture, size, material.subset(picture).images)
    }


CAPTIONS: dict[str, tuple[bytes, str, set[str]]] = {
    "plain": ("anna, café".encode(), "anna, café", set()),
    "mark": ("anna, café".encode("utf-8-sig"), "anna, café", set()),
    "wide": ("anna, 拳击".encode("utf-16"), "anna, 拳击", {"encoding"}),
    "wide, no mark": ("anna, 拳击".encode("utf-16-be"), "anna, 拳击", {"encoding"}),
    "western": ("anna, café".encode("cp1252"), "anna, café", {"encoding"}),
    "emoji": ("anna, 🥊👩🏽‍🦱".encode(), "anna, 🥊👩🏽‍🦱", set()),
    "windows": (b"anna, hat \r\n\r\n", "anna, hat", set()),
    "nobody": (b"annabel", "annabel", {"no trigger word"}),
    "long": (b"anna, " + b"hat, " * 50, "anna, " + ("hat, " * 50).strip(), {"long caption"}),
    "empty": (b"", "", {"empty caption"}),
    "blank": (b"\xef\xbb\xbf \n\t\n", "", {"empty caption"}),
    "lines": (b"anna, one\nanna, two", "anna, one", {"several lines"}),
}
"""What is in the file, what is trained, and what is said."""


def test_captions_as_they_are_found(tmp_path: Path, subset, dataset) -> None:
    for seed, (name, (data, *_)) in enumerate(CAPTIONS.items()):
        saved(noise(seed), tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_bytes(data)
    saved(noise(50), tmp_path / "missing.png")
    datasets = [dataset(subset(tmp_path, trigger_word="anna"))]
    survey = preflight(datasets)
    said = kinds_by_name(survey)
    for name, (_, _, kinds) in CAPTIONS.items():
        assert said.get(f"{name}.txt", set()) == kinds, name
    assert said["missing.png"] == {"no caption"}
    data = build(datasets, survey)
    read = {Path(e.image).stem: e.caption for step in range(data.updates_per_epoch) for e in data[step, 0].examples}
    assert read == {"missing": "", **{name: caption for name, (_, caption, _) in CAPTIONS.items()}}


def test_a_caption_in_an_encoding_that_cannot_be_known_is_told_and_trains(tmp_path: Path, subset, dataset) -> None:
    """Shift-JIS looks like any other: what it is read as is said with a warning, and the trigger is found in it."""
    saved(noise(0), tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes("anna, ボクシング、赤い髪".encode("shift_jis"))
    datasets = [dataset(subset(tmp_path, trigger_word="anna"))]
    survey = preflight(datasets)
    (told,) = [finding for finding in survey.findings if finding.kind == "encoding"]
    assert told.severity == "warning" and "Windows-1252" in told.message and "UTF-8" in told.advice
    assert "no trigger word" not in kinds_by_name(survey)["a.txt"] | kinds_by_name(survey).get("a.png", set())
    with pytest.raises(UserError, match=r"a\.txt"):
        raise_errors(preflight(datasets, strict=True).findings)
    assert build(datasets, survey)[0, 0].examples[0].caption.startswith("anna, ")


NAMES = (
    "n" * 250,
    "🥊 boxing",
    "ein Bär",
    "Анна и сад",
    "a b  c",
    "[x] {y} (z)",
    "100% #1 & 'two'",
    "dot.dot.dot",
    "-dash",
)


def test_any_name_works(tmp_path: Path, subset, dataset) -> None:
    """Names of 250 letters, and paths beyond 260."""
    folder = tmp_path / "ordner ü 🥊" / ("deep " * 20).strip() / ("deeper " * 20).strip()
    for seed, name in enumerate(NAMES):
        saved(noise(seed), folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"anna {seed}", encoding="utf-8")
    datasets = [dataset(subset(folder))]
    data = build(datasets)
    steps = [data[step, 0].examples[0] for step in range(len(NAMES))]
    assert {Path(each.image).stem: each.caption for each in steps} == {
        name: f"anna {seed}" for seed, name in enumerate(NAMES)
    }


def swapped(path: Path) -> None:
    """Another picture of as many bytes and with the same time stamps under the same name."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-20] ^= 255  # a pixel of a BMP
    path.write_bytes(bytes(data))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize("noted", [False, True])
def test_an_edit_that_leaves_size_and_time_alone_is_seen_by_the_next_run(
    tmp_path: Path, subset, dataset, noted: bool
) -> None:
    for seed in range(4):
        saved(noise(seed), tmp_path / "pictures" / f"{seed}.bmp")
    datasets = [dataset(subset(tmp_path / "pictures", class_tokens="anna"))]
    manifest = tmp_path / "notes" if noted else None
    before = keys_of(build(datasets, preflight(datasets, manifest=manifest)))
    assert keys_of(build(datasets, preflight(datasets, manifest=manifest))) == before
    swapped(tmp_path / "pictures" / "2.bmp")
    after = keys_of(build(datasets, preflight(datasets, manifest=manifest)))
    assert len(before) == len(after) == 4 and len(before & after) == 3


@pytest.mark.parametrize("change", [swapped, Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:99])])
def test_what_changes_after_the_check_ends_the_run_and_names_the_file(
    tmp_path: Path, subset, dataset, change: Callable[[Path], object]
) -> None:
    for seed in range(2):
        saved(noise(seed), tmp_path / f"{seed}.bmp")
    data = build([dataset(subset(tmp_path, class_tokens="anna"), train_batch_size=2)])
    assert len(trained(data)) == 2
    change(tmp_path / "1.bmp")
    with pytest.raises(UserError, match=r"1\.bmp: was (there when|changed since) the run began"):
        data[0, 0]
