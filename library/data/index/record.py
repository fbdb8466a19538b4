"""What a look at a picture gives, in a form that is kept."""

from __future__ import annotations

import numpy as np

from library.data.index.folder import STAT
from library.data.pictures.looks import CELLS, SIDES, Exposure

RECORD = np.dtype(
    [
        ("stat", "<i8", (STAT,)),
        ("content", "V20"),
        ("width", "<u4"),
        ("height", "<u4"),
        ("animated", "?"),
        ("profile_broken", "?"),
        ("transparent", "?"),
        ("true_kind", "S4"),
        ("invisible", "?"),
        ("sharpness", "<f4", (len(SIDES),)),
        ("exposure", "<f4", (len(Exposure._fields),)),
        ("spread", "<f4"),
        ("bits", "u1", (2 * CELLS * CELLS // 8,)),
    ]
)
"""What is noted of a picture: its stat, the hash of its bytes, the size of the upright picture, and how it looks. Its
`true_kind` is Pillow's name of it where its ending says another, else empty."""
