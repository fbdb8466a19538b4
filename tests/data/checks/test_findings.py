"""How findings are put together for those who read them."""

from __future__ import annotations

import pytest

from library.core.errors import UserErrors
from library.data.checks.findings import SHOWN_PATHS, Finding, grouped, raise_errors, report
from library.data.checks.remarks import Remarks


def test_what_is_said_of_several_files_stands_together() -> None:
    findings = [
        Finding("blurred", "notice", "a.png", "looks blurred.", "Leave it out."),
        Finding("setting", "warning", "", "this has no effect."),
        Finding("blurred", "notice", "b.png", "looks blurred.", "Leave it out."),
        Finding("setting", "warning", "", "that has no effect."),
        Finding("mask", "error", "c.png", "has no mask."),
    ]
    assert [(group.first.kind, len(group.findings)) for group in grouped(findings)] == [
        ("mask", 1), ("setting", 1), ("setting", 1), ("blurred", 2),
    ]  # fmt: skip
    assert report(findings).splitlines() == [
        "error: c.png: has no mask.",
        "warning: this has no effect.",
        "warning: that has no effect.",
        "notice: each of 2 files: looks blurred. Leave it out.",
        "    a.png",
        "    b.png",
    ]


def test_files_of_one_kind_with_words_of_their_own_stand_together_too() -> None:
    findings = [
        Finding("enlarged", "notice", f"{n}.png", f"is enlarged {n} times.", "It looks soft.") for n in range(3000)
    ]
    (group,) = grouped(findings)
    assert group.message == "" and len(group.findings) == 3000
    lines = report(findings).splitlines()
    assert lines[0] == "notice: each of 3000 files: enlarged. It looks soft."
    assert lines[1] == "    0.png: is enlarged 0 times."
    assert len(lines) == SHOWN_PATHS + 2 and lines[-1] == f"    and {3000 - SHOWN_PATHS} more"


def test_all_errors_are_raised_at_once() -> None:
    findings = [Finding("mask", "error", f"{n}.png", f"mask {n}.", f"Mend {n}.") for n in range(3)]
    with pytest.raises(UserErrors) as caught:
        raise_errors([*findings, Finding("blurred", "warning", "w.png", "m")])
    assert caught.value.messages == [f"{n}.png: mask {n}. Mend {n}." for n in range(3)]
    raise_errors([Finding("blurred", "warning", "w.png", "m")])


def test_the_same_is_told_once_and_only_files_are_called_files() -> None:
    findings = [
        Finding("setting", "notice", "", "this has no effect."),
        Finding("setting", "notice", "", "this has no effect."),
        Finding("setting", "notice", "data.toml: subsets[0]", "that has no effect.", "Leave it out."),
        Finding("setting", "notice", "data.toml: subsets[1]", "that has no effect.", "Leave it out."),
        Finding("class imbalance", "notice", "anna", "is shown once.", "Add some."),
        Finding("class imbalance", "notice", "bea", "is shown once.", "Add some."),
    ]
    assert report(findings).splitlines() == [
        "notice: this has no effect.",
        "notice: each of 2 settings: that has no effect. Leave it out.",
        "    data.toml: subsets[0]",
        "    data.toml: subsets[1]",
        "notice: each of 2 folders: is shown once. Add some.",
        "    anna",
        "    bea",
    ]


def test_remarks_keep_the_same_once_and_count_what_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("library.data.checks.remarks.MOST_OF_A_KIND", 2)
    remarks = Remarks()
    remarks.add_all(Finding("blurred", "notice", name, "looks blurred.") for name in "aabbcd")
    assert [(each.path, each.message[:7]) for each in remarks.all()] == [
        ("a", "looks b"), ("b", "looks b"), ("", "2 more ")
    ]  # fmt: skip
