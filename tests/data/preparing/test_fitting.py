from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from library.data.pictures.buckets import bucket_sizes, training_size
from library.data.pictures.placement import Face, centred, covering
from library.data.preparing.fitting import face_after, fitted, largest_within
from tests.data.preparing.conftest import settings_for

SIDES = st.integers(32, 4000)
BUCKETS = {"resolution": [512, 512], "min_bucket_reso": 256, "max_bucket_reso": 1024, "bucket_reso_steps": 64}


@settings(max_examples=300, deadline=None)
@given(SIDES, SIDES, st.booleans(), st.booleans())
def test_the_trainer_has_nothing_left_to_resize(width: int, height: int, upscale: bool, no_upscale: bool) -> None:
    """`bucket`: its own bucket again, and where it was centred the very placement of the trainer."""
    if max(width, height) > 8 * min(width, height):
        return
    chosen = settings_for(fit="bucket", upscale=upscale, bucket_no_upscale=no_upscale, **BUCKETS)
    sizes = bucket_sizes(chosen.buckets)
    fit = fitted((width, height), chosen)
    trained = training_size((width, height), chosen.buckets, sizes)
    if upscale or not fit.smaller_than_trained:
        assert fit.placement == centred((width, height), trained)
        assert training_size(fit.placement.target, chosen.buckets, sizes) == fit.placement.target
    else:
        assert not no_upscale or min(width, height) < 64, "which is one step"
        assert fit.placement.resized == (width, height)
        again = centred(fit.placement.target, trained)
        assert max(again.resized[axis] - trained[axis] for axis in (0, 1)) <= 0.02 * max(trained) + max(trained) / min(
            width, height
        )
    left, top, right, bottom = fit.kept
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert fit.lost == pytest.approx(1 - (right - left) * (bottom - top) / (width * height), abs=2 / min(width, height))


@settings(max_examples=300, deadline=None)
@given(SIDES, SIDES)
def test_area_keeps_the_whole_picture_and_covers_its_bucket(width: int, height: int) -> None:
    if max(width, height) > 8 * min(width, height):
        return
    chosen = settings_for(fit="area", **BUCKETS)
    fit = fitted((width, height), chosen)
    bucket = training_size((width, height), chosen.buckets, bucket_sizes(chosen.buckets))
    assert fit.placement.target == fit.placement.resized and fit.lost == 0 and fit.kept == (0, 0, width, height)
    if fit.smaller_than_trained:
        assert fit.placement.resized == (width, height)
    else:
        assert fit.placement.resized == covering((width, height), bucket)
        assert all(made >= side for made, side in zip(fit.placement.resized, bucket))


def test_square_and_focus_and_none() -> None:
    def kept(size: tuple[int, int], focus: str, face: Face | None = None) -> tuple[int, int, int, int]:
        return fitted(size, settings_for(fit="square", focus=focus), face).kept

    assert kept((400, 1000), "centre") == (0, 300, 400, 700)
    assert kept((400, 1000), "top") == (0, 0, 400, 400)
    assert kept((400, 1000), "bottom") == (0, 600, 400, 1000)
    assert kept((1000, 400), "top") == (300, 0, 700, 400)
    assert kept((400, 1000), "face", Face(200, 300, 90, 90)) == (0, 100, 400, 500)
    assert kept((400, 1000), "face", Face(200, 950, 90, 90)) == (0, 600, 400, 1000)
    assert kept((400, 1000), "face") == (0, 300, 400, 700)
    assert fitted((40, 90), settings_for(fit="square")).placement.target == (40, 40)
    assert fitted((40, 90), settings_for(fit="square", upscale=True)).placement.target == (64, 64)
    assert fitted((4000, 900), settings_for(fit="none")).placement.target == (4000, 900)


def test_a_face_moves_with_its_picture() -> None:
    placement = fitted((400, 1000), settings_for(fit="square", focus="top")).placement  # 64/400 = 0.16
    assert face_after(Face(200, 100, 50, 75), (0, 0, 400, 1000), placement) == Face(32, 16, 8, 12)
    assert face_after(Face(220, 150, 50, 75), (20, 50, 420, 1050), placement) == Face(32, 16, 8, 12)
    assert face_after(Face(200, 900, 50, 75), (0, 0, 400, 1000), placement) is None


def test_largest_within() -> None:
    assert largest_within((300, 400), (768, 768)) == (300, 300)
    assert largest_within((300, 100), (200, 100)) == (200, 100)
    assert largest_within((33, 64), (128, 32)) == (33, 8)
