"""Caption files, metadata files, what is made of captions, and what is read out of file names."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from library.config.dataset import Dataset, Subset, resolve_datasets
from library.config.schema import Config
from library.config.schema.data import BucketConfig, CaptionConfig, DataConfig, ImageConfig
from library.core.errors import UserError
from library.data.captions.files import caption_in, decoded, metadata_caption, read_metadata
from library.data.captions.pipeline import Moment, mentions, plain_caption, process_caption, variants, without_trigger
from library.data.checks.preflight import preflight
from library.data.pictures.placement import Face, face_of
from tests.fuzz.strategies import TEXT, VALUES, as_json, damaged, fuzzed, outcome

CAPTION = "alexander, {red|blue} armour ||| kicking, ((smile:1.2))\nzweite Zeile, 戦士\n"
METADATA = {"a.png": {"caption": "a knight", "tags": "red\nblue"}, "sub/b": {"caption": None}}
SETTINGS = st.builds(
    CaptionConfig,
    caption_separator=st.sampled_from([",", ", ", ";", "\n", "|"]),
    keep_tokens=st.integers(0, 4),
    keep_tokens_separator=st.sampled_from([None, "|||", ","]),
    secondary_separator=st.sampled_from([None, ";;;", " "]),
    shuffle_caption=st.booleans(),
    enable_wildcard=st.booleans(),
    caption_prefix=st.none() | TEXT,
    caption_dropout_rate=st.sampled_from([0.0, 0.3, 1.0]),
    caption_tag_dropout_rate=st.sampled_from([0.0, 0.5]),
    token_warmup_min=st.integers(0, 3),
    token_warmup_step=st.sampled_from([0.0, 0.5, 7.0]),
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    return folder


def subset(folder: Path, metadata: Path | None = None) -> list[Dataset]:
    of = Subset("it", folder, metadata, 1, False, None, CaptionConfig(), ImageConfig(), "", "", {}, False)
    return [Dataset(BucketConfig(), (of,))]


@fuzzed(60)
@given(st.binary(max_size=60) | st.sampled_from(["utf-8", "utf-16", "utf-8-sig", "cp1252"]).flatmap(
    lambda encoding: damaged(CAPTION.encode(encoding, "replace"))
))  # fmt: skip
def test_any_bytes_are_a_caption(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(content)
    caption, encoding = caption_in(file.read_bytes())
    assert isinstance(caption.encode("utf-8"), bytes)
    assert all(line == line.strip() and line for line in caption.split("\n")) or caption == ""
    assert encoding in ("", "UTF-16", "Windows-1252")
    assert decoded(content)[1] == encoding


@fuzzed(60)
@given(TEXT | st.text(alphabet="{}|,a \n(:)", max_size=40), SETTINGS, TEXT, TEXT)
@example(", ".join(["a"] * 300), CaptionConfig(shuffle_caption=True), "a", "b")
@example("{a|b}" * 300, CaptionConfig(enable_wildcard=True), "a", "b")
@example(": " * 5000, CaptionConfig(), ":", "a")
def test_any_caption_can_be_processed(caption: str, settings: CaptionConfig, trigger: str, word: str) -> None:
    made = process_caption(caption, settings, random.Random(0), Moment(1, 3, 10))
    assert process_caption(caption, settings, random.Random(0), Moment(1, 3, 10)) == made
    listed = variants(caption, settings)
    without_warmup = replace(settings, token_warmup_step=0.0)
    assert listed is None or plain_caption(caption, without_warmup) in listed or settings.caption_dropout_rate > 0
    if trigger.strip() and not mentions(word, trigger) and trigger not in word:
        assert isinstance(without_trigger(caption, trigger, word), str)


@fuzzed(60)
@given(
    damaged(json.dumps(METADATA).encode()),
    st.sampled_from(["a.json", "a.jsonl"]),
)
def test_damaged_metadata(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    outcome(lambda: read_metadata(tmp_path / name), name)


@fuzzed(40)
@given(
    st.dictionaries(TEXT, st.dictionaries(st.sampled_from(["caption", "tags"]), VALUES) | VALUES, max_size=4) | VALUES
)
@example({"": {"caption": "a"}})
@example({"/": {"caption": "a"}, "..": {}, "x" * 5000: {}})
@example({"a\0b.png": {"caption": "a"}})
@example({"a": {"caption": "\ud800"}})
def test_any_metadata(pictures: Path, tmp_path: Path, value: Any) -> None:
    file = tmp_path / "a.json"
    file.write_text(as_json(value), encoding="utf-8")
    survey = outcome(lambda: preflight(subset(pictures, file)), "a.json")
    for picture in () if isinstance(survey, UserError) else survey.pictures:
        assert isinstance(picture.caption.encode("utf-8"), bytes)


@fuzzed(40)
@given(TEXT | st.tuples(*[TEXT | st.integers(0, 10**30).map(str)] * 5).map("_".join))
@example("a_²_1_2_3")
def test_any_file_name_tells_a_face_or_none(stem: str) -> None:
    face = face_of(stem)
    assert face is None or isinstance(face, Face)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 50_000, '{"a": {"caption": ' + "9" * 5000 + "}}"])
def test_what_once_went_wrong_in_metadata(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.json: is not valid JSON"):
        read_metadata(tmp_path / "a.json")


def test_a_line_of_json_goes_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"file_name": "a.png", "text": "one\u2028two"}\r\n', encoding="utf-8")
    assert read_metadata(tmp_path / "a.jsonl")["a.png"]["caption"] == "one\u2028two"
    assert metadata_caption({"caption": "one", "tags": ["x"]}, ",") == "one,['x']"


def test_a_folder_named_by_its_date_is_not_repeated_for_years(tmp_path: Path) -> None:
    (tmp_path / "20260101_trip").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "20260101_trip" / "a.png")
    with pytest.raises(UserError, match="at most 100000"):
        resolve_datasets(replace(Config(), data=DataConfig(train_data_dir=str(tmp_path))))
