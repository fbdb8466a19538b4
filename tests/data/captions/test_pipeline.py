from __future__ import annotations

import random
from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from library.config.schema.data import CaptionConfig
from library.data.captions.pipeline import Moment, plain_caption, process_caption, variants, without_trigger

LATE = Moment(epoch=0, step=1000, max_train_steps=1000)


def many(caption: str, config: CaptionConfig, count: int = 400, moment: Moment = LATE) -> Counter[str]:
    return Counter(process_caption(caption, config, random.Random(seed), moment) for seed in range(count))


def once(caption: str, config: CaptionConfig, moment: Moment = LATE) -> str:
    (result,) = many(caption, config, 20, moment)
    return result


def test_a_plain_caption_stays_as_written() -> None:
    assert once("a man,  red hair ,boxing", CaptionConfig()) == "a man,  red hair ,boxing"


def test_prefix_and_suffix_then_the_first_line() -> None:
    config = CaptionConfig(caption_prefix="alex,", caption_suffix=", photo")
    assert once("boxing\nrunning", config) == "alex, boxing , photo"


def test_whole_caption_dropout_has_its_rate() -> None:
    assert 60 <= many("a, b", CaptionConfig(caption_dropout_rate=0.25))[""] <= 140
    assert once("a, b", CaptionConfig(caption_dropout_rate=1.0)) == ""


@pytest.mark.parametrize(("epoch", "empty"), [(0, False), (1, False), (2, True), (3, False), (5, True)])
def test_dropout_every_n_epochs_counts_epochs_from_one(epoch: int, empty: bool) -> None:
    caption = once("a, b", CaptionConfig(caption_dropout_every_n_epochs=3), Moment(epoch, 0, 10))
    assert (caption == "") == empty


def test_wildcards_choose_a_line_and_an_option() -> None:
    found = many("a {red|blue} {{hat}}\nb", CaptionConfig(enable_wildcard=True))
    assert set(found) == {"a red {hat}", "a blue {hat}", "b"}
    assert 130 <= found["b"] <= 270
    assert once("a {red|blue} {{hat}}\nb", CaptionConfig()) == "a {red|blue} {{hat}}"


def test_shuffle_keeps_what_is_to_be_kept() -> None:
    config = CaptionConfig(shuffle_caption=True, keep_tokens=1)
    assert set(many("x, a, b, c", config)) == {", ".join(("x", *rest)) for rest in permutations("abc")}


def test_keep_tokens_separator_marks_front_and_end() -> None:
    config = CaptionConfig(shuffle_caption=True, keep_tokens_separator="|||", keep_tokens=5)
    expected = {f"x, y, {a}, {b}, z" for a, b in permutations("ab")}
    assert set(many("x, y ||| a, b ||| z", config)) == expected
    assert once("x ||| a, b", CaptionConfig(keep_tokens_separator="|||")) == "x, a, b"


def test_tags_that_belong_together_move_together() -> None:
    config = CaptionConfig(shuffle_caption=True, secondary_separator=";;;")
    assert set(many("hat;;;coat, a", config)) == {"hat,coat, a", "a, hat,coat"}


def test_tag_dropout_spares_the_kept() -> None:
    found = many("x, a, b", CaptionConfig(caption_tag_dropout_rate=0.5, keep_tokens=1), 800)
    assert set(found) == {"x, a, b", "x, a", "x, b", "x"}
    assert all(140 <= count <= 260 for count in found.values())


@pytest.mark.parametrize(
    ("step", "warmup", "tags"), [(0, 10, 1), (5, 10, 2), (9, 10, 3), (10, 10, 4), (5, 0.1, 2), (10, 0.1, 4), (0, 0, 4)]
)
def test_warmup_grows_the_number_of_tags(step: int, warmup: float, tags: int) -> None:
    # sd-scripts: floor(step * (tags - min) / warmup) + min
    config = CaptionConfig(token_warmup_step=warmup, token_warmup_min=1)
    assert once("a, b, c, d", config, Moment(0, step, 100)).split(", ") == list("abcd")[:tags]


def test_warmup_truncates_before_the_shuffle() -> None:
    config = CaptionConfig(token_warmup_step=10, token_warmup_min=2, shuffle_caption=True)
    assert set(many("a, b, c, d", config, moment=Moment(0, 0, 100))) == {"a, b", "b, a"}


def test_other_separators_split_and_commas_join() -> None:
    assert set(many("a. b", CaptionConfig(caption_separator=".", shuffle_caption=True))) == {"a, b", "b, a"}


def test_plain_captions_are_without_chance() -> None:
    config = CaptionConfig(
        enable_wildcard=True,
        shuffle_caption=True,
        caption_dropout_rate=0.5,
        caption_tag_dropout_rate=0.5,
        caption_dropout_every_n_epochs=1,
        token_warmup_step=100,
        caption_prefix="alex,",
    )
    assert plain_caption("{red|blue} hat, b\nc", config) == "alex, red hat, b"


configs = st.builds(
    CaptionConfig,
    keep_tokens=st.integers(0, 2),
    shuffle_caption=st.booleans(),
    enable_wildcard=st.booleans(),
    caption_prefix=st.sampled_from([None, "p,"]),
    caption_dropout_rate=st.sampled_from([0.0, 0.3, 1.0]),
    caption_dropout_every_n_epochs=st.integers(0, 2),
    caption_tag_dropout_rate=st.sampled_from([0.0, 0.5]),
    token_warmup_step=st.sampled_from([0, 20]),
    keep_tokens_separator=st.sampled_from([None, "|||"]),
)
captions = st.sampled_from(["", "a", "a, b", "a, {x|y}\nb", "a ||| b, c", "{x|y}, {{z}}, c"])


@settings(max_examples=40, deadline=None)
@given(captions, configs)
def test_variants_are_exactly_what_can_be_drawn(caption: str, config: CaptionConfig) -> None:
    listed = variants(caption, config)
    drawn = {
        process_caption(caption, config, random.Random(1000 * step + seed), Moment(step % 2, step, 100))
        for step in (0, 5, 10, 15, 19, 20, 21)
        for seed in range(40)
    }
    if listed is None:
        assert config.shuffle_caption
    elif config.token_warmup_step == 0 and not config.shuffle_caption:
        assert drawn == set(listed)
    else:
        assert drawn <= set(listed)


def test_too_many_variants_are_not_listed() -> None:
    assert variants("a, b, c, d, e, f", CaptionConfig(shuffle_caption=True)) is None
    assert variants(", ".join(map(str, range(9))), CaptionConfig(caption_tag_dropout_rate=0.1)) is None
    assert variants(", ".join(map(str, range(9))), CaptionConfig(caption_dropout_rate=0.1)) == [
        "",
        "0, 1, 2, 3, 4, 5, 6, 7, 8",
    ]


@pytest.mark.parametrize(
    ("caption", "class_word", "expected"),
    [
        ("alexander, red hair", "man", "man, red hair"),
        ("alexander, red hair", "", "red hair"),
        ("red hair, alexander", "", "red hair"),
        ("alexander", "", ""),
        ("Alexander standing, red hair", "man", "man standing, red hair"),
        ("photo of alexander standing", "", "photo of standing"),
        ("alexander man, red hair", "man", "man, red hair"),
        ("alexander, man, red hair", "man", "man, red hair"),
        ("alexanderplatz, alexander_the_great", "man", "alexanderplatz, alexander_the_great"),
        ("(alexander:1.2), hat", "man", "(man:1.2), hat"),
        ("(alexander:1.2), hat", "", "hat"),
        ("a.b,  red  hair", "man", "a.b,  red  hair"),
        ("", "man", ""),
    ],
)
def test_the_trigger_gives_way_to_its_class(caption: str, class_word: str, expected: str) -> None:
    assert without_trigger(caption, "alexander", class_word) == expected


def test_triggers_are_plain_text_not_patterns() -> None:
    assert without_trigger("a.b, axb", "a.b", r"\1man") == r"\1man, axb"
    assert without_trigger("a, b", "", "man") == "a, b"
