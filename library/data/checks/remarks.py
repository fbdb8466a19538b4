"""Findings as they are made: a million pictures with the same fault do not fill the memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from library.data.checks.findings import Finding, Severity

MOST_OF_A_KIND = 1000


class Remarks:
    """Takes findings one by one; of each kind the first ones are kept, and the others counted. The same is kept once."""

    def __init__(self) -> None:
        self._kept: dict[Finding, None] = {}
        self._counts: Counter[tuple[str, Severity]] = Counter()

    def add(self, finding: Finding) -> None:
        """One more."""
        if finding in self._kept:
            return
        group = finding.kind, finding.severity
        self._counts[group] += 1
        if self._counts[group] <= MOST_OF_A_KIND:
            self._kept[finding] = None

    def add_all(self, findings: Iterable[Finding]) -> None:
        """Several."""
        for finding in findings:
            self.add(finding)

    def all(self) -> list[Finding]:
        """Those that were kept, and for each kind of which there were more, how many."""
        rest = {group: count - MOST_OF_A_KIND for group, count in self._counts.items() if count > MOST_OF_A_KIND}
        return list(self._kept) + [
            Finding(kind, severity, "", f"{count} more files: {kind}, like the {MOST_OF_A_KIND} that are listed.")
            for (kind, severity), count in rest.items()
        ]
