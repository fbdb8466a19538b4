from __future__ import annotations

from pathlib import Path

import pytest

from library.data.checks.counts import about_counts
from library.data.checks.findings import Finding
from library.data.index.pictures import Picture
from tests.data.columns import pictures_of


def some(
    count: int, of: int = 0, dataset: int = 0, repeats: int = 1, is_reg: bool = False, copies: int = 1
) -> list[Picture]:
    """Pictures of one subset, each there several times."""
    return [
        Picture(
            Path(f"{of}/{number}.png"),
            64,
            64,
            "x",
            dataset,
            of,
            is_reg,
            repeats,
            content=f"{of:02x}{number // copies:038x}",
        )
        for number in range(count * copies)
    ]


def told(kind: str, pictures: list[Picture], *datasets) -> list[Finding]:
    return [finding for finding in about_counts(pictures_of(pictures), datasets) if finding.kind == kind]


@pytest.mark.parametrize(
    ("count", "severity", "words"),
    [
        (1, "warning", "There is one picture to train on."),
        (9, "warning", "There are 9 different pictures to train on."),
        (10, "notice", "There are 10 different pictures to train on."),
        (14, "notice", "There are 14 different"),
        (15, "notice", "enough for a character, few for a style"),
        (19, "notice", "enough for a character, few for a style"),
    ],
)
def test_few_pictures(subset, dataset, count: int, severity: str, words: str) -> None:
    (finding,) = told("few pictures", some(count, copies=3), dataset(subset(Path("0"))))
    assert finding.severity == severity and words in finding.message
    for part in ("15 for a character, 20 for a style", "the same person", "various practitioners", "full body"):
        assert part in finding.advice


def test_enough_and_many(subset, dataset) -> None:
    asked = dataset(subset(Path("0")))
    for count in (20, 100):
        assert list(about_counts(pictures_of(some(count)), [asked])) == []
    (many,) = about_counts(pictures_of(some(101)), [asked])
    assert (many.kind, many.severity) == ("many pictures", "notice") and "101 different" in many.message


def test_none_at_all(subset, dataset) -> None:
    (nothing,) = told("no pictures", [], dataset(subset(Path("0"))))
    assert nothing.severity == "error" and "not one picture" in nothing.message
    (unset,) = told("no pictures", some(3, is_reg=True), dataset(subset(Path("0"), is_reg=True)))
    assert "train_data_dir" in unset.advice
    assert [f.severity for f in told("no pictures", [])] == ["error"]


def test_each_of_several_characters_is_counted(subset, dataset) -> None:
    asked = dataset(*(subset(Path(name), trigger_word=trigger) for name, trigger in zip("01", ("anna", "bea"))))
    (few,) = told("few pictures", [*some(30), *some(8, 1)], asked)
    assert few.severity == "warning" and few.message == "There are 8 different pictures of 'bea' to train on."
    only_validates = dataset(subset(Path("2"), trigger_word="anna"), validation_split=1.0)
    (few,) = told("few pictures", [*some(9), *some(30, dataset=1)], dataset(subset(Path("0"))), only_validates)
    assert few.message == "There are 9 different pictures to train on."
    one = dataset(*(subset(Path(name), trigger_word="anna") for name in "01"))
    assert told("few pictures", [*some(30), *some(8, 1)], one) == []


def test_folders_that_are_shown_seldom_are_told_with_the_repeats_that_balance_them(subset, dataset) -> None:
    asked = dataset(subset(Path("10_anna woman"), num_repeats=10), subset(Path("1_bob man")))
    (finding,) = told("class imbalance", [*some(20, repeats=10), *some(15, 1)], asked)
    assert (finding.severity, finding.path) == ("notice", "1_bob man")
    assert finding.message == (
        "is shown 15 times an epoch (15 pictures with num_repeats 1), but 10_anna woman 200 times an epoch "
        "(20 pictures with num_repeats 10)."
    )
    assert "num_repeats = 13 (or name it '13_bob man') balances them" in finding.advice  # 15 * 13 = 195
    (raised,) = told("class imbalance", [*some(100, repeats=10), *some(100, 1, repeats=2)], asked)
    assert (
        "num_repeats = 10 (or name it '10_bob man'), or num_repeats = 2 for the other, balances them" in raised.advice
    )
    assert told("class imbalance", [*some(20, repeats=2), *some(15, 1)], asked) == []  # 40 and 15


def test_what_balance_counts(subset, dataset) -> None:
    """A folder at two sizes is one; regularisation, kept and validation pictures are none."""
    kept = {"diff_output_preservation": True}
    first = dataset(
        subset(Path("a")), subset(Path("b")), subset(Path("r"), is_reg=True), subset(Path("k"), custom_attributes=kept)
    )
    second = dataset(subset(Path("a")), subset(Path("b")))
    only_validates = dataset(subset(Path("v")), validation_split=1.0)
    pictures = [*some(20), *some(10, 1), *some(20, 2, is_reg=True), *some(2, 3)]
    assert told("class imbalance", pictures, first) == []
    both = [*pictures, *some(20, dataset=1), *some(1, dataset=2)]
    (finding,) = told("class imbalance", both, first, second, only_validates)
    assert finding.path == "b" and "num_repeats = 4 balances" in finding.advice
    uneven = [*both, *some(2, 1, dataset=1, repeats=1), *some(30, dataset=1, repeats=2)]
    (uneven_finding,) = told("class imbalance", uneven, first, second, only_validates)
    assert "num_repeats = 8 balances" in uneven_finding.advice  # 100 to 12; two numbers of the other: it is not lowered


def test_few_regularisation_pictures_for_many(subset, dataset) -> None:
    asked = dataset(subset(Path("a")), subset(Path("r"), is_reg=True, where="reg_data_dir: r"))
    assert told("class imbalance", [*some(29, repeats=10), *some(10, 1, is_reg=True)], asked) == []
    (finding,) = told("class imbalance", [*some(30, repeats=10), *some(10, 1, is_reg=True)], asked)
    assert finding.path == "reg_data_dir: r" and "prior_prediction_rate" in finding.advice
    assert finding.message == "10 regularisation pictures for 30 training pictures: each is shown 30 times an epoch."
    (uneven,) = told("class imbalance", [*some(31, repeats=10), *some(4, 1, is_reg=True)], asked)
    assert uneven.message.endswith("each is shown about 77.5 times an epoch.")


@pytest.mark.parametrize(("count", "words"), [(1, "This one picture"), (4, "These 4 pictures")])
def test_a_handful_of_pictures_needs_more_of_them_not_repeats(subset, dataset, count: int, words: str) -> None:
    asked = dataset(subset(Path("5_anna"), num_repeats=5), subset(Path("1_bob")))
    (finding,) = told("class imbalance", [*some(18, repeats=5), *some(count, 1)], asked)
    assert "num_repeats" not in finding.advice and "more pictures, not more repeats" in finding.advice
    assert finding.advice.startswith(words)
    assert finding.message.startswith(
        "is shown once an epoch (1 picture" if count == 1 else "is shown 4 times an epoch (4"
    )
