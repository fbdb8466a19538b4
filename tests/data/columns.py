"""Pictures in columns, from a few that a test writes out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from library.data.index.pictures import ROW, Picture, Pictures, PicturesInTheMaking, SubsetFacts


def pictures_of(listed: Sequence[Picture]) -> Pictures:
    """A few pictures as one sees them, in columns."""
    making = PicturesInTheMaking()
    subsets: dict[SubsetFacts, int] = {}
    rows_N = np.zeros(len(listed), ROW)
    for row, each in zip(rows_N, listed):
        facts = SubsetFacts(Path(), each.dataset, each.subset, each.is_reg, each.repeats)
        texts = (each.path, each.caption, each.caption_path or "", each.mask_path or "", each.mask_content)
        row["subset"] = subsets.setdefault(facts, len(subsets))
        for name, text in zip(("name", "caption", "caption_name", "mask", "mask_content"), texts):
            row[name] = making.texts.add(str(text))
        row["width"], row["height"] = each.size
        row["content"] = np.void(bytes.fromhex(each.content).ljust(20, b"\0"))
    return Pictures(tuple(subsets), making.texts.finished(), rows_N)
