"""Captions against sd-scripts' pipeline written out step by step: what can come out of it, and how often."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from library.config.schema.data import CaptionConfig
from library.data.captions.pipeline import Moment, process_caption

DRAWS = 1500
RUN = 100
"""Steps."""

CAPTION = "rin, red hat, long hair, smile"
CASES = [
    ("rin  ,red hat,  smile", {}),
    (CAPTION, {"shuffle_caption": True}),
    (CAPTION, {"shuffle_caption": True, "keep_tokens": 2}),
    (CAPTION, {"keep_tokens": 1, "caption_tag_dropout_rate": 0.4}),
    (CAPTION, {"caption_prefix": "best quality,", "caption_suffix": ", sky", "shuffle_caption": True, "keep_tokens": 1}),
    (CAPTION, {"token_warmup_step": 40, "token_warmup_min": 1}),
    (CAPTION, {"token_warmup_step": 0.4, "token_warmup_min": 2, "keep_tokens": 1, "shuffle_caption": True}),
    (CAPTION, {"caption_dropout_rate": 0.3, "caption_tag_dropout_rate": 0.2}),
    (CAPTION, {"caption_dropout_every_n_epochs": 2, "caption_prefix": "x"}),
    ("rin, {red|blue|} hat {{1}}\nrin, ink", {"enable_wildcard": True}),
    ("rin, {red|blue} hat\nrin, ink", {}),
    ("{a|b}, c, {d|e}", {"enable_wildcard": True, "shuffle_caption": True, "keep_tokens": 1}),
    ("rin, hat ||| a, b ||| sky", {"keep_tokens_separator": "|||", "shuffle_caption": True}),
    ("rin, hat ||| a, b", {"keep_tokens_separator": "|||", "caption_tag_dropout_rate": 0.5, "keep_tokens": 1}),
    ("rin, hair;;;braid, hat", {"secondary_separator": ";;;", "shuffle_caption": True, "keep_tokens": 1}),
    ("rin; red, hat; smile", {"caption_separator": ";", "shuffle_caption": True, "secondary_separator": ","}),
]  # fmt: skip


def theirs(caption: str, o: SimpleNamespace, rng: random.Random, epoch: int, step: int) -> str:
    """1 prefix and suffix ... 9 secondary separator; `epoch` from 1, `step` from 0."""
    caption = f"{o.caption_prefix} {caption}" if o.caption_prefix else caption
    caption = f"{caption} {o.caption_suffix}" if o.caption_suffix else caption
    n = o.caption_dropout_every_n_epochs
    if rng.random() < o.caption_dropout_rate or (n > 0 and epoch % n == 0):
        return ""
    if o.enable_wildcard:
        caption = rng.choice(caption.split("\n")).replace("{{", "\0").replace("}}", "\1")
        caption = re.sub(r"\{([^}]+)\}", lambda found: rng.choice(found[1].split("|")), caption)
        caption = caption.replace("\0", "{").replace("\1", "}")
    else:
        caption = caption.split("\n")[0]
    if o.shuffle_caption or o.token_warmup_step > 0 or o.caption_tag_dropout_rate > 0:
        front, moving, end = parted(caption, o)
        warmup = math.floor(o.token_warmup_step * RUN) if o.token_warmup_step < 1 else o.token_warmup_step
        if warmup and step < warmup:
            grown = math.floor(step * ((len(moving) - o.token_warmup_min) / warmup)) + o.token_warmup_min
            moving = moving[:grown]
        if o.shuffle_caption:
            rng.shuffle(moving)
        moving = [tag for tag in moving if rng.random() >= o.caption_tag_dropout_rate]
        caption = ", ".join(front + moving + end)
    return caption.replace(o.secondary_separator, o.caption_separator) if o.secondary_separator else caption


def parted(caption: str, o: SimpleNamespace) -> tuple[list[str], list[str], list[str]]:
    def tags(text: str) -> list[str]:
        return [tag.strip() for tag in text.split(o.caption_separator) if tag.strip()]

    if o.keep_tokens_separator and o.keep_tokens_separator in caption:
        parts = [tags(part) for part in caption.split(o.keep_tokens_separator, 2)]
        return parts[0], parts[1], parts[2] if len(parts) == 3 else []
    return tags(caption)[: o.keep_tokens], tags(caption)[o.keep_tokens :], []


@pytest.mark.parametrize(("epoch", "step"), [(1, 5), (2, 17), (3, 99)])
@pytest.mark.parametrize(("caption", "options"), CASES)
def test_the_same_captions_come_as_often(caption: str, options: dict, epoch: int, step: int) -> None:
    config = CaptionConfig(**options)
    moment = Moment(epoch - 1, step, RUN)
    plain = SimpleNamespace(**asdict(config))
    ours = Counter(process_caption(caption, config, random.Random(seed), moment) for seed in range(DRAWS))
    reference = Counter(theirs(caption, plain, random.Random(-1 - seed), epoch, step) for seed in range(DRAWS))
    assert ours.keys() == reference.keys()
    for text, times in reference.items():
        assert abs(ours[text] - times) <= 6 * math.sqrt(2 * max(times, 1)), text
