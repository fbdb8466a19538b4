"""What a look at the training data found, told to the user in one report before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from library.core.errors import UserErrors

Severity = Literal["error", "warning", "notice"]

SHOWN_PATHS = 8


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


def made_strict(findings: Sequence[Finding]) -> list[Finding]:
    """Every warning as an error (`strict = true`)."""
    return [replace(finding, severity="error") if finding.severity == "warning" else finding for finding in findings]


def report(findings: Sequence[Finding]) -> str:
    """All findings as text, errors first; files of which the same is said stand together."""
    return "\n".join(
        f"{severity}: {text}" for severity in ("error", "warning", "notice") for text in _texts(findings, severity)
    )


def raise_errors(findings: Sequence[Finding]) -> None:
    """Stop with every error at once.

    Raises:
        UserErrors: when there is at least one finding of severity "error".
    """
    errors = _texts(findings, "error")
    if errors:
        raise UserErrors(errors)


def _texts(findings: Sequence[Finding], severity: str) -> list[str]:
    groups: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        if finding.severity == severity:
            groups.setdefault((finding.message, finding.advice), []).append(finding.path)
    return [_text(message, advice, paths) for (message, advice), paths in groups.items()]


def _text(message: str, advice: str, paths: list[str]) -> str:
    says = f"{message} {advice}".strip()
    if len(paths) == 1:
        return f"{paths[0]}: {says}" if paths[0] else says
    shown = [f"\n    {path}" for path in paths[:SHOWN_PATHS]]
    more = f"\n    and {len(paths) - SHOWN_PATHS} more" if len(paths) > SHOWN_PATHS else ""
    return f"each of {len(paths)} files: {says}{''.join(shown)}{more}"
