"""Edits of captions, each against what a reader of its help expects."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from library.core.errors import UserError
from library.data.captions.editing import edit_all, edited
from library.data.captions.line_edits import (
    Origin,
    Prefix,
    ReplaceRegex,
    ReplaceText,
    StripEmpty,
    Suffix,
    Template,
)
from library.data.captions.tag_edits import (
    AddTags,
    Dedupe,
    MostTags,
    RemoveTags,
    ReplaceTag,
    SortTags,
    TagsFirst,
    TriggerFirst,
    UnderscoresToSpaces,
)

ANNA = Origin("anna_01", "10_anna woman", ",", "anna", "woman")

CASES = [
    (TriggerFirst("anna"), "red hat, smiling", "anna, red hat, smiling"),
    (TriggerFirst("anna"), "red hat, Anna, smiling, anna", "anna, red hat, smiling"),
    (TriggerFirst("anna"), "anna,red hat", "anna,red hat"),
    (TriggerFirst("anna"), "a photo of anna in a red hat, smiling", "a photo of anna in a red hat, smiling"),
    (TriggerFirst("anna"), "annabelle, smiling", "anna, annabelle, smiling"),
    (TriggerFirst("anna, woman"), "smiling, woman", "anna, woman, smiling"),
    (Prefix("a photo of"), "a red hat", "a photo of a red hat"),
    (Prefix("a photo of"), "a photo of a red hat", "a photo of a red hat"),
    (Prefix("anna"), "annabelle, hat", "anna annabelle, hat"),
    (Suffix("hat"), "look at that", "look at that hat"),
    (Suffix(", best quality"), "red hat", "red hat, best quality"),
    (Suffix("in the rain"), "a red hat", "a red hat in the rain"),
    (Template("{trigger}, {class}, {caption}"), "red hat", "anna, woman, red hat"),
    (Template("{trigger}, {class}, {caption}"), "anna, woman, red hat", "anna, woman, red hat"),
    (Template("{trigger}, {class}, {caption}"), "", "anna, woman"),
    (Template("{trigger}, {class}, {caption}"), "anna, woman", "anna, woman"),
    (Template("{trigger}, {class}, {caption}"), "smiling, Anna, woman", "anna, woman, smiling"),
    (Template("{trigger}, {class}, {caption}"), "Anna", "anna, woman"),
    (Template("a photo of {trigger} {caption}, hat"), "smiling, anna, Hat", "a photo of anna smiling, anna, hat"),
    (Template("{folder} / {name}"), "red hat", "anna woman / anna_01"),
    (Template("{caption}, {red|blue} sky"), "hat", "hat, {red|blue} sky"),
    (AddTags(("hat", "red")), "Red, coat", "Red, coat, hat"),
    (AddTags(("hat", "red"), "front"), "coat", "hat, red, coat"),
    (AddTags(("hat",), "after", "long hair"), "anna, long_hair, coat", "anna, long_hair, hat, coat"),
    (AddTags(("hat",), "after", "scarf"), "anna,coat", "anna,coat"),
    (RemoveTags(("Long Hair",)), "anna, long_hair, hair", "anna, hair"),
    (RemoveTags(("*background*",)), "anna, dojo background, backgrounds, back", "anna, back"),
    (RemoveTags(("a.c",)), "abc, a.c", "abc"),
    (ReplaceTag("hat", ("cap",)), "red hat, hat", "red hat, cap"),
    (ReplaceTag("hat", ("cap", "wool")), "cap, x, hat", "cap, x, wool"),
    (ReplaceTag("hat", ()), "anna, hat", "anna"),
    (ReplaceText("man", "person"), "A man and a woman, MAN", "A person and a woman, person"),
    (ReplaceText("c++", r"\1"), "learns C++, hat", r"learns \1, hat"),
    (ReplaceRegex(re.compile(r"(\d)girls?"), r"\1 girl"), "1girl, 2girls", "1 girl, 2 girl"),
    (TagsFirst(("b", "a")), "c, a, d, b", "b, a, c, d"),
    (SortTags("alphabet"), "C, a_b, a a, b", "a a, a_b, b, C"),
    (Dedupe(), "long_hair, Long Hair, long  hair, hair", "long_hair, hair"),
    (UnderscoresToSpaces(), "long_hair, ^_^, (o)_(o), score_8_up, a_b_c", "long hair, ^_^, (o)_(o), score_8_up, a b c"),
    (StripEmpty(), ", a ,,  b  c,", "a, b c"),
    (MostTags(2), "a, b, c", "a, b"),
    (SortTags("alphabet"), "z, {red hat, cap|helmet}, a", "a, z, {red hat, cap|helmet}"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "before", "after"), CASES)
def test_each_edit(edit, before: str, after: str) -> None:
    assert edited(before, edit, ANNA) == after


@pytest.mark.parametrize(("edit", "before"), [(edit, before) for edit, before, _ in CASES])
def test_an_edit_done_twice_does_no_more(edit, before: str) -> None:
    once = edited(before, edit, ANNA)
    assert edited(once, edit, ANNA) == once


def test_lines_are_alternatives_and_keep_their_ends() -> None:
    text = "red hat\r\n\r\n  blue hat  \n\tgreen hat"
    assert edited(text, TriggerFirst("anna"), ANNA) == "anna, red hat\r\n\r\nanna, blue hat\nanna, green hat"


@pytest.mark.parametrize(("text", "after"), [("", "anna"), ("\n", "anna\n"), ("  \r\n", "anna\r\n")])
def test_an_empty_caption_is_one_empty_line(text: str, after: str) -> None:
    assert edited(text, TriggerFirst("anna"), ANNA) == after
    assert edited(text, RemoveTags(("hat",)), ANNA) == text


def test_another_separator() -> None:
    origin = Origin(separator=";")
    assert edited("a, b; c", TriggerFirst("anna"), origin) == "anna; a, b; c"


def test_edits_are_done_in_their_order() -> None:
    texts = ["b, a, c"]
    first, _ = edit_all(texts, [MostTags(2), SortTags("alphabet")], [ANNA])
    second, _ = edit_all(texts, [SortTags("alphabet"), MostTags(2)], [ANNA])
    third, counts = edit_all(texts, [RemoveTags(("c",)), AddTags(("c",), "front"), RemoveTags(("x",))], [ANNA])
    assert (first, second, third, counts) == (["a, b"], ["a, b"], ["c, b, a"], [1, 1, 0])
    third, _ = edit_all(texts, [TagsFirst(("c",)), MostTags(1)], [ANNA])
    assert third == ["c"]


def test_frequency_is_counted_when_it_is_its_turn() -> None:
    texts = ["b, a", "b, c", "a, d", "a"]
    assert edit_all(texts, [SortTags("frequency")], [ANNA] * 4)[0] == ["a, b", "b, c", "a, d", "a"]
    edits = [ReplaceTag("a", ("e",)), ReplaceTag("c", ("d",)), SortTags("frequency")]
    assert edit_all(["x, a", "y, c", "y, d"], edits, [ANNA] * 3)[0] == ["x, e", "y, d", "y, d"]


def test_a_template_names_what_it_may() -> None:
    with pytest.raises(UserError, match="Did you mean 'trigger'"):
        Template("{triger}, {caption}")


TAGS = st.lists(
    st.text(st.sampled_from("ab _Bé^{}|😀,"), max_size=6).map(str.strip) | st.sampled_from(["anna", "Anna", "long_hair", "long hair"]),
    max_size=8,
)  # fmt: skip
EDITS = st.sampled_from(
    [TriggerFirst("anna"), Dedupe(), StripEmpty(), SortTags("alphabet"), TagsFirst(("b", "anna")), MostTags(3), AddTags(("b", "c d")),
     RemoveTags(("*a*",)), ReplaceTag("long hair", ("hair", "b")), UnderscoresToSpaces(), Prefix("by"), Suffix(", end")]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(tags=TAGS, edit=EDITS)
def test_edits_are_idempotent_on_any_tags(tags: list[str], edit) -> None:
    once = edited(", ".join(tags), edit, ANNA)
    assert edited(once, edit, ANNA) == once


@settings(max_examples=80, deadline=None)
@given(tags=TAGS)
def test_dedupe_keeps_the_first_of_each(tags: list[str]) -> None:
    plain = [tag for tag in tags if not set(tag) & set("{},")]
    left = edited(", ".join(plain), Dedupe(), ANNA).split(",")
    seen = [" ".join(tag.replace("_", " ").lower().split()) or tag for tag in plain if tag]
    assert len([tag for tag in left if tag.strip()]) == len(set(seen))


@settings(max_examples=80, deadline=None)
@given(tags=TAGS, edit=EDITS)
def test_line_ends_survive_any_edit(tags: list[str], edit) -> None:
    text = "\r\n".join([", ".join(tags), "kept line", "end"]) + "\r\n"
    assert edited(text, edit, ANNA).count("\r\n") == 3
