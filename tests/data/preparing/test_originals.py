from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from library.core.errors import UserError
from library.data.preparing.originals import distinct_stems, find_originals
from tests.data.preparing.conftest import saved, smooth

NAMES = [
    f"{stem}{more}.{kind}" for stem in "abAB" for more in ("", "_png", "_png_2") for kind in ("png", "jpg", "webp")
]


def put(path: Path, data: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data or saved(smooth(64, 64)))
    return path


def test_names_stay_and_are_distinct() -> None:
    assert distinct_stems(["a.jpg", "a.png", "b.png"]) == ["a", "a_png", "b"]
    assert distinct_stems(["A.jpg", "a.png", "a_png.webp"]) == ["A", "a_png_2", "a_png"]
    assert distinct_stems(["anna_320_180_96_110.jpg", "four_words_in_here.png"]) == ["anna", "four_words_in_here"]


@given(st.lists(st.sampled_from(NAMES), unique=True, max_size=20))
def test_no_two_stems_are_the_same(names: list[str]) -> None:
    stems = distinct_stems(sorted(names))
    assert len({stem.lower() for stem in stems}) == len(names)


def test_layouts(tmp_path: Path) -> None:
    for name in (
        "top.png",
        "10_anna woman/a.jpg",
        "10_anna woman/deep/b.png",
        ".hidden/c.png",
        "@eaDir/d.png",
        "10_anna woman/.e.png",
    ):
        put(tmp_path / name)
    (tmp_path / "10_anna woman" / "deep" / "circle").symlink_to(tmp_path)
    shallow = find_originals(tmp_path, recursive=False)
    assert [each.name for each in shallow.originals] == ["top.png", "10_anna woman/a.jpg"]
    assert [finding.kind for finding in shallow.findings] == ["deeper folder"]
    deep = find_originals(tmp_path, recursive=True)
    assert {each.name for each in deep.originals} == {"top.png", "10_anna woman/a.jpg", "10_anna woman/deep/b.png"}
    with pytest.raises(UserError, match="no such folder"):
        find_originals(tmp_path / "nothing", recursive=False)
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="no pictures"):
        find_originals(tmp_path / "bare", recursive=False)
    with pytest.raises(UserError, match="is a file"):
        find_originals(tmp_path / "top.png", recursive=False)


def test_captions_and_what_is_not_copied(tmp_path: Path) -> None:
    for name in ("a.png", "b.PNG", "anna_32_18_9_11.jpg", "film.mp4", "raw.CR2"):
        put(tmp_path / name)
    for name in ("a.txt", "a.caption", "B.txt", "anna.txt", "alone.txt", "a.tags", "metadata.json"):
        put(tmp_path / name, b"words")
    found = find_originals(tmp_path, recursive=False)
    captions = {each.path.name: [path.name for path in each.captions] for each in found.originals}
    assert captions == {"a.png": ["a.caption", "a.txt"], "b.PNG": ["B.txt"], "anna_32_18_9_11.jpg": ["anna.txt"]}
    told = {(Path(finding.path).name, finding.kind) for finding in found.findings}
    assert told == {
        ("film.mp4", "not read"),
        ("raw.CR2", "not read"),
        ("alone.txt", "no picture"),
        ("metadata.json", "metadata"),
    }
    put(tmp_path / "anna_at_the_beach_2.png")
    (stranger,) = (each for each in find_originals(tmp_path, recursive=False).originals if "beach" in each.path.name)
    assert not stranger.captions, "anna.txt is another picture's"
    others = find_originals(tmp_path, recursive=False, caption_endings=[".tags"])
    assert [path.name for path in others.originals[0].captions] == ["a.tags"]
    (tmp_path / "gone.heic").symlink_to(tmp_path / "nowhere")
    (tmp_path / "more.png").mkdir()
    findings = find_originals(tmp_path, recursive=False).findings
    assert [Path(f.path).name for f in findings if f.message == "is a link to nothing."] == ["gone.heic"]
    assert not any("folder" in finding.message for finding in findings), "those are looked through"
