"""Measurements that are run by hand, `python -m benchmarks.NAME`; their figures stand in docs/benchmarks.md."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""
