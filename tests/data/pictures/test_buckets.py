from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from library.config.schema.data import BucketConfig
from library.data.pictures.buckets import bucket_problems, bucket_sizes, training_size

SIZES_512 = [
    (256, 832), (256, 896), (256, 960), (256, 1024), (320, 704), (320, 768), (384, 640), (448, 576), (512, 512),
    (576, 448), (640, 384), (704, 320), (768, 320), (832, 256), (896, 256), (960, 256), (1024, 256),
]  # fmt: skip
"""What sd-scripts makes of 512x512 with its defaults, as many users' logs show it."""


def brute_force(area: int, low: int, high: int, step: int) -> set[tuple[int, int]]:
    """Among all grid sizes: those in which one side is the longest that the area allows for the other."""
    grid = range(step, high + step, step)
    sizes = set()
    for width in (w for w in grid if low <= w <= high):
        fitting = [h for h in grid if width * h <= area and h <= high]
        if fitting and max(fitting) >= low:
            sizes |= {(width, max(fitting)), (max(fitting), width)}
    side = max(s for s in range(step, high * 2, step) if s * s <= area)
    return sizes | {(side, side)}


def test_512_has_the_17_known_buckets() -> None:
    assert bucket_sizes(BucketConfig(enable_bucket=True)) == SIZES_512


def test_1024_has_41_buckets() -> None:
    sizes = bucket_sizes(BucketConfig(resolution=[1024, 1024], enable_bucket=True, max_bucket_reso=2048))
    assert len(sizes) == 41
    assert sizes == sorted(sizes)
    assert {(1024, 1024), (832, 1216), (1216, 832), (512, 2048), (2048, 512)} <= set(sizes)


@given(
    st.integers(3, 16).map(lambda n: 64 * n),
    st.integers(3, 16).map(lambda n: 64 * n),
    st.sampled_from([16, 32, 64]),
)
def test_sizes_agree_with_a_search_over_the_grid(width: int, height: int, step: int) -> None:
    config = BucketConfig(
        resolution=[width, height],
        enable_bucket=True,
        min_bucket_reso=128,
        max_bucket_reso=1024,
        bucket_reso_steps=step,
    )
    assert set(bucket_sizes(config)) == brute_force(width * height, 128, 1024, step)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        ((640, 384), (640, 384)),
        ((2000, 2000), (512, 512)),
        ((1920, 1080), (640, 384)),  # 1.67 is nearer to 1.78 than 2.2
        ((300, 3000), (256, 1024)),
        ((3000, 300), (1024, 256)),
        ((256, 1024), (256, 1024)),
    ],
)
def test_nearest_bucket(picture: tuple[int, int], expected: tuple[int, int]) -> None:
    config = BucketConfig(enable_bucket=True)
    assert training_size(picture, config, bucket_sizes(config)) == expected


def test_first_bucket_wins_a_tie() -> None:
    config = BucketConfig(enable_bucket=True)
    assert training_size((150, 100), config, [(100, 100), (200, 100)]) == (100, 100)
    assert training_size((150, 100), config, [(200, 100), (100, 100)]) == (200, 100)


def test_without_buckets_there_is_one_size() -> None:
    config = BucketConfig(resolution=[768, 512])
    assert bucket_sizes(config) == [(768, 512)]
    assert training_size((100, 900), config, [(768, 512)]) == (768, 512)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        ((500, 300), (448, 256)),  # smaller than the area: kept, floored
        ((512, 512), (512, 512)),
        ((2048, 1024), (640, 320)),  # scaled to 724 x 362; 640 x 320 keeps the shape better than 704 x 352
        ((40, 500), (64, 448)),  # at least one step
    ],
)
def test_no_upscale(picture: tuple[int, int], expected: tuple[int, int]) -> None:
    config = BucketConfig(enable_bucket=True, bucket_no_upscale=True)
    assert training_size(picture, config, bucket_sizes(config)) == expected


@given(st.integers(64, 5000), st.integers(64, 5000))
def test_no_upscale_never_enlarges(width: int, height: int) -> None:
    config = BucketConfig(enable_bucket=True, bucket_no_upscale=True)
    size = training_size((width, height), config, [])
    assert size[0] * size[1] <= max(512 * 512, 64 * 64 * math.ceil(max(width, height) / 64))
    if min(width, height) * min(1.0, 512 / math.sqrt(width * height)) >= 64:
        assert size[0] <= width and size[1] <= height


def test_ranges_that_do_not_fit_the_step_are_widened() -> None:
    config = BucketConfig(enable_bucket=True, min_bucket_reso=300, max_bucket_reso=1000)
    assert bucket_sizes(config) == SIZES_512


def test_problems_name_their_keys() -> None:
    assert bucket_problems(BucketConfig(), 8) == []
    assert bucket_problems(BucketConfig(enable_bucket=True), 8) == []
    assert "resolution 500x512" in bucket_problems(BucketConfig(resolution=[500, 512]), 8)[0]
    assert "504x512" in bucket_problems(BucketConfig(resolution=[500, 512]), 8)[0]
    assert "bucket_reso_steps 20" in bucket_problems(BucketConfig(enable_bucket=True, bucket_reso_steps=20), 8)[0]
    assert "max_bucket_reso" in bucket_problems(BucketConfig(resolution=[2048, 512], enable_bucket=True), 8)[0]
    assert "min_bucket_reso" in bucket_problems(BucketConfig(resolution=[128, 512], enable_bucket=True), 8)[0]
