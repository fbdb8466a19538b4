"""What a look at the training data found, told to the user in one report before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from library.core.errors import UserErrors
from library.core.wording import how_many

Severity = Literal["error", "warning", "notice"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "notice")
"""The gravest first."""

SHOWN_PATHS = 8

COUNTED_AS = {"setting": "setting"} | dict.fromkeys(
    (
        "no folder",
        "no pictures",
        "unused folder",
        "caption files",
        "class imbalance",
        "same caption",
        "tag in every caption",
    ),
    "folder",
)
"""What a finding of a kind is about, where it is not a file."""


@dataclass(frozen=True)
class Finding:
    """One thing worth telling about one file or folder."""

    kind: str
    """What sort of thing it is, in a word or two: "blurred", "near copy", "no caption". Shown on thumbnails, and the same in JSON."""
    severity: Severity
    path: str
    """The file or folder; "" where the whole data are meant."""
    message: str
    """What was found."""
    advice: str = ""
    """How to mend it, or what is done about it."""
    picture: str = ""
    """The picture that it is about, where `path` is that of its caption or mask."""
    other: str = ""
    """The picture that it is a copy of, or shares its name with."""


def made_strict(findings: Sequence[Finding]) -> list[Finding]:
    """Every warning as an error (`strict = true`)."""
    return [replace(finding, severity="error") if finding.severity == "warning" else finding for finding in findings]


@dataclass(frozen=True)
class Group:
    """Findings of one kind, severity and advice: at least one."""

    findings: list[Finding]

    @property
    def first(self) -> Finding:
        """The one whose kind, severity and advice all have."""
        return self.findings[0]

    @property
    def message(self) -> str:
        """What is said of all of them; "" where each has its own message."""
        return self.first.message if all(each.message == self.first.message for each in self.findings) else ""

    @property
    def counted_as(self) -> str:
        """What each of them is about: a file, a folder or a setting."""
        return COUNTED_AS.get(self.first.kind, "file")


def grouped(findings: Iterable[Finding]) -> list[Group]:
    """Errors first, then in order, each finding once; those about files that are of one kind stand together."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for each in dict.fromkeys(findings):
        alone = () if each.path else (each.message,)
        groups.setdefault((each.severity, each.kind, each.advice, *alone), []).append(each)
    return sorted(map(Group, groups.values()), key=lambda group: SEVERITIES.index(group.first.severity))


def report(findings: Iterable[Finding]) -> str:
    """All findings as text, errors first; files of which the same is said stand together."""
    return "\n".join(f"{group.first.severity}: {_text(group)}" for group in grouped(findings))


def raise_errors(findings: Sequence[Finding]) -> None:
    """Stop with every error at once.

    Raises:
        UserErrors: when there is at least one finding of severity "error".
    """
    errors = [_text(group) for group in grouped(findings) if group.first.severity == "error"]
    if errors:
        raise UserErrors(errors)


def _text(group: Group) -> str:
    first, count = group.first, len(group.findings)
    if count == 1:
        says = f"{first.message} {first.advice}".strip()
        return f"{first.path}: {says}" if first.path else says
    says = f"{group.message or f'{first.kind}.'} {first.advice}".strip()
    shown = [
        f"\n    {each.path}" if group.message else f"\n    {each.path}: {each.message}"
        for each in group.findings[:SHOWN_PATHS]
    ]
    more = f"\n    and {count - SHOWN_PATHS} more" if count > SHOWN_PATHS else ""
    return f"each of {how_many(count, group.counted_as)}: {says}{''.join(shown)}{more}"
