"""Prompt files in their three formats, and prompts on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from library.core.errors import UserError
from library.inference.prompts import FIELDS, FLAGS, RANGES, read_prompts, request_of_line
from library.inference.requests import SampleRequest
from library.inference.samplers import SAMPLERS
from tests.fuzz.strategies import NESTED, TEXT, VALUES, as_json, damaged, fuzzed, outcome

DEFAULT = SampleRequest("", width=512, height=512, seed=1)
FILES = {
    ".txt": "# poses\na knight --n blurry --w 512 --h 768 --d 1 --s 20 --l 7.5 --ss euler_a\nanother\n",
    ".toml": '[prompt]\nwidth = 512\nscale = 7\n[[prompt.subset]]\nprompt = "a"\nseed = 3\n[[prompt.subset]]\nprompt = "b"\n',
    ".json": '[{"prompt": "a", "width": 512, "seed": 3, "scale": 7.5}, "b --d 4"]',
}
WORDS = st.sampled_from([*(f" --{flag} " for flag in FLAGS), " --", "a knight"])


def read(folder: Path, ending: str, content: bytes) -> Any:
    file = folder / f"prompts{ending}"
    file.write_bytes(content)
    found = outcome(lambda: read_prompts(file, DEFAULT, 8), "prompts")
    for request in () if isinstance(found, UserError) else found:
        check(request)
    return found


def check(request: SampleRequest) -> None:
    """A request that the model can be asked for."""
    for name, (low, high) in RANGES.items():
        assert low <= getattr(request, name) <= high
    assert request.sampler in SAMPLERS
    assert request.width % 8 == request.height % 8 == 0
    assert isinstance((request.prompt + request.negative_prompt).encode("utf-8"), bytes)


@fuzzed(40)
@given(st.sampled_from(list(FILES)).flatmap(lambda ending: st.tuples(st.just(ending), damaged(FILES[ending].encode()))))
def test_damaged_files(tmp_path: Path, file: tuple[str, bytes]) -> None:
    read(tmp_path, *file)


@fuzzed(60)
@given(VALUES | st.lists(TEXT | st.dictionaries(st.sampled_from(list(FIELDS)) | TEXT, VALUES, max_size=4), max_size=3))
@example([{"prompt": "a", "width": float("inf")}])
@example([{"prompt": "a", "width": float("nan")}])
@example([{"prompt": "a", "scale": 10**400}])
@example([{"prompt": "\ud800"}])
@example([{"prompt": "a", "seed": "9" * 5000}])
def test_any_json(tmp_path: Path, value: Any) -> None:
    read(tmp_path, ".json", as_json(value).encode())


@fuzzed(30)
@given(st.lists(WORDS | TEXT, max_size=8).map("".join))
def test_any_line(line: str) -> None:
    found = outcome(lambda: request_of_line(line, DEFAULT, 8))
    if isinstance(found, SampleRequest):
        check(found)


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        (".toml", '[prompt]\nsubset = ["a", 3]'),
        (".toml", "prompt = 3"),
        (".toml", "[[prompt]]\nsubset = []"),
        (".toml", "[prompt]\nsubset = [{prompt = 'a', seed = " + "9" * 5000 + "}]"),
        (".toml", "x = " + "[" * 3000),
        (".json", "[" * 100_000),
        (".json", '[{"prompt": "a", "seed": ' + "9" * 5000 + "}]"),
        (".json", "{}"),
    ],
)
def test_what_once_went_wrong(tmp_path: Path, ending: str, content: str) -> None:
    assert isinstance(read(tmp_path, ending, content.encode()), UserError)


@fuzzed(10)
@given(NESTED)
def test_any_nesting(tmp_path: Path, text: str) -> None:
    assert isinstance(read(tmp_path, ".json", text.encode()), UserError)
