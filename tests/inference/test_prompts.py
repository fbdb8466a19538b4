from __future__ import annotations

import json
import logging

import pytest

from library.core.errors import UserError
from library.inference.prompts import read_prompts
from library.inference.requests import SampleRequest

DEFAULT = SampleRequest("", width=64, height=64, seed=10, steps=20, scale=7.0, sampler="euler")


@pytest.fixture
def read(tmp_path):
    def written(name: str, content: str, stride: int = 8) -> list[SampleRequest]:
        (tmp_path / name).write_text(content, encoding="utf-8")
        return read_prompts(tmp_path / name, DEFAULT, stride)

    return written


def test_lines_with_flags(read):
    requests = read(
        "prompts.txt",
        "# a comment\n\na knight, (sword:1.2) --n blurry, low quality --w 512 --h 768 --d 42 --s 30 --l 7.5 --ss k_euler_a\n"
        "  just a prompt  \nA LOUD one --W 128 --D 0\n",
    )
    assert requests == [
        SampleRequest("a knight, (sword:1.2)", "blurry, low quality", 512, 768, 42, 30, 7.5, "k_euler_a"),
        SampleRequest("just a prompt", "", 64, 64, 11, 20, 7.0, "euler"),
        SampleRequest("A LOUD one", "", 128, 64, 0, 20, 7.0, "euler"),
    ]


def test_toml_shares_what_stands_in_the_table(read):
    requests = read(
        "prompts.toml",
        '[prompt]\nwidth = 128\nsample_steps = 5\n[[prompt.subset]]\nprompt = "a"\nscale = 3\n'
        '[[prompt.subset]]\nprompt = "b"\nwidth = 64\nseed = 3\nsample_sampler = "ddim"\n',
    )
    assert requests == [
        SampleRequest("a", "", 128, 64, 10, 5, 3.0, "euler"),
        SampleRequest("b", "", 64, 64, 3, 5, 7.0, "ddim"),
    ]


def test_json_holds_tables_or_lines(read):
    content = [{"prompt": "a", "negative_prompt": "bad", "height": 128}, "b --d 7"]
    assert read("prompts.json", json.dumps(content)) == [
        SampleRequest("a", "bad", 64, 128, 10, 20, 7.0, "euler"),
        SampleRequest("b", "", 64, 64, 7, 20, 7.0, "euler"),
    ]


def test_a_byte_order_mark_is_no_part_of_the_prompt(tmp_path):
    (tmp_path / "prompts.txt").write_bytes("\ufeffa cat\r\na dog\r\n".encode())
    assert [request.prompt for request in read_prompts(tmp_path / "prompts.txt", DEFAULT, 8)] == ["a cat", "a dog"]


def test_sizes_are_rounded_to_the_stride_with_a_notice(read, caplog):
    with caplog.at_level(logging.WARNING):
        (request,) = read("prompts.txt", "a --w 70 --h 3", stride=8)
    assert (request.width, request.height) == (64, 8)
    assert "line 1: 70x3 is rounded to 64x8" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", "fine\nx --w wide", "line 2: width is 'wide', but must be a whole number"),
        ("a.txt", "x --zz 1", "line 1: unknown flag '--zz'"),
        ("a.txt", "x --s 0", "sample_steps is '0', but must be between 1 and 1000"),
        ("a.txt", "x --ss eulr", "sample_sampler is 'eulr', but must be one of ddim"),
        ("a.txt", "x --l much", "scale is 'much', but must be a number"),
        ("a.txt", "fine\n--n blurry --w 512", "line 2: no prompt"),
        ("a.txt", "# nothing\n", "holds no prompt"),
        ("a.toml", "[prompt]\nwidth = 64", r"needs a table \[\[prompt.subset\]\]"),
        ("a.toml", "[prompt", "not readable TOML"),
        (
            "a.toml",
            '[[prompt.subset]]\nprompt = "a"\nwitdh = 64',
            "prompt 1: unknown key 'witdh'. Did you mean 'width'",
        ),
        ("a.json", '[{"width": 64}]', "prompt 1: no prompt"),
        ("a.json", '[{"prompt": 5}]', "prompt is '5', but must be text"),
        ("a.json", '[{"prompt": "a", "width": 64.5}]', "width is '64.5', but must be a whole number"),
        ("a.json", '{"prompt": "a"}', "must be a list of prompts"),
        ("a.json", "[", "not readable JSON"),
        ("a.yaml", "a", "must end in .txt, .toml, .json"),
    ],
)
def test_mistakes_are_told_with_their_place(read, name, content, told):
    with pytest.raises(UserError, match=told):
        read(name, content)


def test_all_mistakes_are_told_at_once(read):
    with pytest.raises(UserError, match=r"(?s)3 problems.*line 1.*line 1.*line 3"):
        read("a.txt", "x --w a --h b\nfine\ny --zz 1\n")


def test_flags_of_sd_scripts_that_mean_nothing_here_are_left_out_with_a_warning(read, caplog):
    plain = SampleRequest("x", "", 64, 64, 7, 20, 7.0, "euler")
    with caplog.at_level(logging.WARNING):
        flags = "--am 0.8,1 --cn a.png --ctr 0.5 --fs 3.1 --G 3.5 --i a.png --rcfg 1"
        assert read("prompts.txt", f"x {flags} --d 7") == [plain]
        assert read("prompts.json", json.dumps([{"prompt": "x", "seed": 7, "guidance_scale": 3.5}])) == [plain]
    for flag in flags.split():
        assert not flag.startswith("--") or f"line 1: {flag} has no effect: " in caplog.text
    assert "prompt 1: guidance_scale has no effect: it is for other kinds of models; --l" in caplog.text


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        read_prompts(tmp_path / "none.txt", DEFAULT, 8)
