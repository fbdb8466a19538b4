from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from library.data.pictures.placement import (
    Face,
    Placement,
    around_face,
    at_random,
    centred,
    covering,
    face_of,
    mirrored,
)

sides = st.integers(8, 3000)
targets = st.tuples(st.integers(1, 16), st.integers(1, 16)).map(lambda n: (64 * n[0], 64 * n[1]))


@given(st.tuples(sides, sides), targets)
def test_covering_touches_one_side_and_covers_the_other(original: tuple[int, int], target: tuple[int, int]) -> None:
    resized = covering(original, target)
    assert resized[0] >= target[0] and resized[1] >= target[1]
    assert resized[0] == target[0] or resized[1] == target[1]
    scale = max(target[0] / original[0], target[1] / original[1])
    assert abs(resized[0] - original[0] * scale) <= 0.5 + 1e-6
    assert abs(resized[1] - original[1] * scale) <= 0.5 + 1e-6


@given(st.tuples(sides, sides), targets, st.integers(0, 99))
def test_crops_lie_within_the_resized_picture(original: tuple[int, int], target: tuple[int, int], seed: int) -> None:
    rng = random.Random(seed)
    face = Face(original[0] // 3, original[1] // 2, max(1, original[0] // 8), max(1, original[1] // 8))
    placements = [
        centred(original, target),
        at_random(original, target, rng),
        around_face(original, target, face, (2.0, 4.0), False, rng),
        around_face(original, target, face, (2.0, 4.0), True, rng),
    ]
    for placement in placements:
        left, top, right, bottom = placement.box
        assert left >= 0 and top >= 0 and right <= placement.resized[0] and bottom <= placement.resized[1]
        assert (right - left, bottom - top) == target


def test_geometry_is_height_first_and_tells_the_real_crop() -> None:
    placement = Placement(original=(1000, 600), resized=(533, 320), left=100, top=0, target=(320, 320))
    assert placement.geometry().values() == [600, 1000, 0, 100, 320, 320]
    assert mirrored(placement).geometry().values() == [600, 1000, 0, 533 - 320 - 100, 320, 320]


def test_random_crops_reach_both_ends() -> None:
    lefts = {at_random((110, 100), (100, 100), random.Random(seed)).left for seed in range(200)}
    assert lefts == set(range(11))


@pytest.mark.parametrize(
    ("stem", "face"),
    [
        ("anna_320_180_96_110", Face(320, 180, 96, 110)),
        ("anna_b_320_180_96_110", Face(320, 180, 96, 110)),
        ("320_180_96_110", None),
        ("anna_320_180_96_x", None),
        ("anna_320_180_0_10", None),
        ("anna", None),
    ],
)
def test_face_in_the_file_name(stem: str, face: Face | None) -> None:
    assert face_of(stem) == face


def test_face_crop_centres_the_face_at_the_asked_zoom() -> None:
    placement = around_face((4000, 4000), (512, 512), Face(3000, 1000, 400, 300), (2.0, 2.0), False, random.Random(0))
    assert placement.resized == (2560, 2560)  # 512 / (400 * 2) of 4000
    assert placement.box[:2] == (3000 * 0.64 - 256, 1000 * 0.64 - 256)


def test_face_crop_stays_inside_and_never_enlarges() -> None:
    corner = around_face((1024, 1024), (512, 512), Face(10, 1020, 20, 20), (2.0, 2.0), False, random.Random(0))
    assert corner.resized == (1024, 1024)
    assert corner.box == (0, 512, 512, 1024)
