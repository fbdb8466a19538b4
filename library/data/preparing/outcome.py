"""What is asked of a preparation, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from library.data.checks.findings import Finding
from library.data.index.siblings import CAPTION_EXTENSIONS
from library.data.preparing.making import Made
from library.data.preparing.manifest import Record
from library.data.preparing.originals import Original
from library.data.preparing.placing import Placed
from library.data.preparing.settings import Settings


@dataclass(frozen=True)
class Request:
    """What is to be done."""

    source: Path
    out: Path
    settings: Settings
    recursive: bool = False
    caption_endings: Sequence[str] = CAPTION_EXTENSIONS
    validation_split: float = 0.0
    validation_seed: int = 0
    skip_copies: bool = False
    skip_near_copies: bool = False
    prune: bool = False
    """Remove what was made of originals that are gone."""
    overwrite: bool = False
    """Replace files in `out` that others wrote or edited."""
    dry_run: bool = False
    """Write nothing."""
    progress: bool = False


@dataclass(frozen=True)
class Outcome:
    """One original and what became of it."""

    original: Original
    record: Record
    part: str = ""
    """"train" or "validation"; "" where it is left out."""
    target: str = ""
    """Its place, as a path below the folder."""
    left_out: str = ""
    """Kind of the reason for which it is left out, "" where it is used."""
    reason: str = ""

    @property
    def made(self) -> Made:
        """What was done to it."""
        return self.record.made


@dataclass(frozen=True)
class Prepared:
    """What a run has done, or would do."""

    outcomes: list[Outcome]
    findings: list[Finding]
    placed: Placed = field(default_factory=Placed)
    gone: list[str] = field(default_factory=list)
    """Originals of an earlier run that are no longer there, below the source."""

    @property
    def used(self) -> list[Outcome]:
        """Those that are not left out."""
        return [outcome for outcome in self.outcomes if outcome.part]
