"""What reading a configuration brings to light, gathered so that everything is told at once."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Findings:
    """Messages for the user, in the order in which they were found."""

    mistakes: list[str] = field(default_factory=list)
    """What must be mended before the run can start."""
    unknown: list[str] = field(default_factory=list)
    """Keys that nobody knows: mistakes too, unless unknown_keys = "warn"."""
    warnings: list[str] = field(default_factory=list)
    """What is probably not meant, or has no effect."""
    notices: list[str] = field(default_factory=list)
    """What was decided for the user."""
