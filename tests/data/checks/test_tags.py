from __future__ import annotations

from pathlib import Path

import pytest

from library.data.checks.findings import Finding
from library.data.checks.tags import about_tags
from library.data.index.pictures import Picture, Pictures
from tests.data.columns import pictures_of


def captioned(*captions: str, dataset: int = 0, subset: int = 0, is_reg: bool = False) -> list[Picture]:
    return [
        Picture(
            Path(f"{subset}/{number}.png"), 64, 64, caption, dataset, subset, is_reg, 1, Path(f"{subset}/{number}.txt")
        )
        for number, caption in enumerate(captions)
    ]


def tags(*varied: str, start: str = "anna, woman", end: str = "") -> list[str]:
    return [", ".join(filter(None, (start, each, end))) for each in varied]


VARIED = ("boxing", "sitting", "running", "jumping", "standing")


def told(pictures: list[Picture], *datasets) -> list[Finding]:
    return list(about_tags(pictures_of(pictures), datasets))


def test_tags_that_every_caption_has_are_told_but_not_trigger_and_class(subset, dataset) -> None:
    asked = dataset(subset(Path("0"), trigger_word="anna", class_word="woman"))
    captions = tags(*VARIED, start="anna, a woman, Red  Hair", end="blue eyes")
    captions[2] = captions[2].replace("Red  Hair", "red hair")
    (finding,) = told(captioned(*captions), asked)
    assert (finding.kind, finding.severity, finding.path) == ("tag in every caption", "notice", "0")
    assert finding.message == "'Red  Hair', 'blue eyes': in every caption."
    assert "the trigger word 'anna'" in finding.advice
    assert told(captioned(*captions, "anna, blue eyes"), asked)[0].message == "'blue eyes': in every caption."
    assert told(captioned(*captions, "anna"), asked)[0].kind == "bare caption"
    assert told(captioned(*captions[:4]), asked) == []  # too few to say
    (sign,) = told(captioned(*tags(*VARIED, end="🥊")), asked)
    assert sign.message == "'🥊': in every caption."


@pytest.mark.parametrize(
    ("settings", "captions", "common"),
    [
        ({"keep_tokens": 2}, tags(*VARIED, start="anna, red hair"), ""),
        ({"keep_tokens": 1}, tags(*VARIED, start="anna, red hair"), "'red hair'"),
        ({"keep_tokens_separator": "|||"}, tags(*VARIED, start="anna, red hair ||| hat", end="||| sharp"), "'hat'"),
        ({"caption_separator": ";"}, [f"anna; red, hair; {tag}" for tag in VARIED], "'red, hair'"),
        ({}, [f"anna, {tag}\nhat" for tag in VARIED], ""),
        ({"enable_wildcard": True}, [f"anna, {tag}, hat\nhat, anna, coat" for tag in VARIED], "'hat'"),
        ({"enable_wildcard": True}, tags(*VARIED, start="anna, {hat, cap|hat|none} on"), ""),
        ({}, tags(*VARIED, start="photo of Anna, anna's hat"), ""),
        ({"keep_tokens": 1, "caption_prefix": "anna,"}, tags(*VARIED, start="red hat"), "'red hat'"),
        ({"keep_tokens": 1, "caption_suffix": ", sharp"}, tags(*VARIED, start="anna"), "'sharp'"),
        ({}, [f"anna, {hair}, {tag}" for hair, tag in zip(("Long_Hair", "long hair") * 3, VARIED)], "'Long_Hair'"),
    ],
)
def test_what_is_kept_in_front_or_varies_is_not_told(subset, dataset, settings, captions, common: str) -> None:
    asked = dataset(subset(Path("0"), trigger_word="anna", **settings))
    assert [f.message for f in told(captioned(*captions), asked)] == (
        [f"{common}: in every caption."] if common else []
    )


def test_without_a_trigger_word_the_tag_that_all_begin_with_is_taken_for_it(subset, dataset) -> None:
    asked = dataset(subset(Path("0")))
    assert told(captioned(*tags(*VARIED, start="anna")), asked) == []
    (finding,) = told(captioned(*tags(*VARIED, start="Anna", end="red hair")), asked)
    assert finding.message == "'red hair': in every caption." and "'Anna', which comes first" in finding.advice
    (prefixed,) = told(captioned(*tags(*VARIED, start="hat")), dataset(subset(Path("0"), caption_prefix="ann_x,")))
    assert prefixed.message == "'hat': in every caption." and "'ann_x', which comes first" in prefixed.advice
    kept = dataset(subset(Path("0"), keep_tokens=1))
    assert told(captioned(*tags(*VARIED, start="anna", end="red hair")), kept)[0].message.startswith("'red hair'")
    assert told(captioned(*(f"{tag}, red hair" for tag in VARIED)), asked) == []


def test_captions_without_the_trigger_word_are_told_as_such_alone(subset, dataset) -> None:
    captions = tags(*VARIED, start="kungfu, full body")
    assert told(captioned(*captions), dataset(subset(Path("0"), trigger_word="anna"))) == []
    (common,) = told(captioned(*captions), dataset(subset(Path("0"), trigger_word="anna", caption_prefix="anna,")))
    assert common.message == "'kungfu', 'full body': in every caption."


def test_only_what_all_folders_of_one_trigger_have_in_common_counts(subset, dataset) -> None:
    dressed, armed = tags(*VARIED, end="red dress"), tags(*VARIED, end="sword")
    both = [*captioned(*dressed), *captioned(*armed, subset=1)]
    two = [subset(Path(name), trigger_word="anna", class_word="woman") for name in "01"]
    assert told(both, dataset(*two)) == []
    (common,) = told([*captioned(*dressed), *captioned(*dressed, subset=1)], dataset(*two))
    assert common.path == "" and "red dress" in common.message
    others = [
        subset(Path(name), trigger_word=trigger, class_word="woman") for name, trigger in zip("01", ("anna", "bea"))
    ]
    bea = captioned(*tags(*VARIED, start="bea, woman", end="sword"), subset=1)
    found = told([*captioned(*dressed), *bea], dataset(*others))
    assert [(f.path, f.message) for f in found] == [
        ("0", "'red dress': in every caption."),
        ("1", "'sword': in every caption."),
    ]


def test_captions_that_are_all_the_same(subset, dataset) -> None:
    asked = dataset(subset(Path("0"), trigger_word="anna", class_word="woman"))
    (same,) = told(captioned(*["anna, woman, boxing " + "x" * 100] * 6), asked)
    assert same.kind == "same caption" and "boxing xxx" in same.message and len(same.message) < 150
    (bare,) = told(captioned(*["anna, a woman"] * 6), asked)
    assert bare.kind == "same caption" and "no caption says more than the trigger word" in bare.message
    assert [f.kind for f in told(captioned("anna", "Anna woman", "anna", "anna", "anna"), asked)] == ["same caption"]
    assert told(captioned(*tags(*VARIED), "anna 🥊"), asked) == []
    (alone,) = told(captioned(*tags(*VARIED), "anna woman"), asked)
    assert (alone.kind, alone.path, alone.picture) == ("bare caption", str(Path("0/5.txt")), str(Path("0/5.png")))


def test_regularisation_pictures_and_empty_captions_do_not_count(subset, dataset) -> None:
    kept = {"diff_output_preservation": True}
    asked = dataset(
        subset(Path("0"), trigger_word="anna"),
        subset(Path("1"), is_reg=True),
        subset(Path("2"), custom_attributes=kept),
    )
    pictures = [
        *captioned(*tags(*VARIED, start="anna"), ""),
        *captioned(*["woman"] * 9, subset=1, is_reg=True),
        *captioned(*["woman"] * 9, subset=2),
    ]
    assert told(pictures, asked) == []


def test_pictures_are_gone_through_once_and_none_is_kept(subset, dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = pictures_of(captioned(*tags(*VARIED * 200, end="red hair")))
    made = 0

    def counted(self: Pictures, index: object, make=Pictures.__getitem__) -> object:
        nonlocal made
        made += 1
        return make(self, index)

    monkeypatch.setattr(Pictures, "__getitem__", counted)
    assert len(list(about_tags(pictures, [dataset(subset(Path("0"), trigger_word="anna"))]))) == 1
    assert made <= len(pictures) + 1
