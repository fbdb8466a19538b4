"""What a picture is asked for with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SampleRequest:
    """One picture to generate."""

    prompt: str
    negative_prompt: str = ""
    width: int = 512
    height: int = 512
    seed: int = 0
    steps: int = 30
    scale: float = 7.5
    """Classifier-free guidance (Ho & Salimans 2022); 1 and below: none."""
    sampler: str = "ddim"
