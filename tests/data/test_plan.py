from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from library.data.pictures.buckets import sizes_of
from library.data.plan import Bucket, Plan, bucketed, share

SIZES = [(64, 64), (96, 64), (64, 96)]


def make_plan(pictures: int = 23, repeats: int = 3, batch_size: int = 4, seed: int = 0) -> Plan:
    sizes = [SIZES[index % 3] for index in range(pictures)]
    datasets = [int(index >= 20) for index in range(pictures)]
    return Plan(buckets_of(sizes, datasets, [repeats] * pictures, [batch_size, 2]), seed)


def buckets_of(
    sizes: list[tuple[int, int]], datasets: list[int], repeats: list[int], batch_sizes: list[int]
) -> list[Bucket]:
    pairs = np.array(sizes)
    columns = sizes_of(pairs[:, 0], pairs[:, 1], lambda size: size)
    return bucketed(columns, np.array(datasets), np.array(repeats), batch_sizes)


@given(st.integers(0, 40), st.integers(1, 8), st.integers(1, 6))
def test_parts_make_up_the_whole(count: int, world: int, accumulation: int) -> None:
    entries = list(range(count))
    parts = [share(entries, rank, world, micro, accumulation) for micro in range(accumulation) for rank in range(world)]
    assert sorted(entry for part in parts for entry in part) == entries
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 3), st.sampled_from([2, 4, 12]))
def test_world_size_and_accumulation_change_nothing(pictures: int, repeats: int, seed: int, batch: int) -> None:
    """The same global batch, however it factors into batch size, processes and accumulation."""
    plan = make_plan(pictures, repeats, batch, seed)
    for step in range(plan.updates_per_epoch + 1):
        entries = plan.batch(step).entries
        for world in (1, 2, batch):
            accumulation = batch // world
            parts = [share(entries, r, world, m, accumulation) for m in range(accumulation) for r in range(world)]
            assert sorted((e for part in parts for e in part), key=lambda e: e.slot) == entries


def test_an_epoch_shows_every_entry_once_and_a_batch_has_one_size() -> None:
    plan = make_plan()
    for epoch in range(3):
        steps = range(epoch * plan.updates_per_epoch, (epoch + 1) * plan.updates_per_epoch)
        batches = [plan.batch(step) for step in steps]
        shown = Counter((entry.picture, entry.repeat) for batch in batches for entry in batch.entries)
        assert shown == Counter((picture, repeat) for picture in range(23) for repeat in range(3))
        for batch in batches:
            assert batch.epoch == epoch
            assert {SIZES[entry.picture % 3] for entry in batch.entries} == {batch.size}
            assert {int(entry.picture >= 20) for entry in batch.entries} == {batch.dataset}
            assert [entry.slot for entry in batch.entries] == list(range(len(batch.entries)))


def test_short_batches_stay_short() -> None:
    plan = make_plan(pictures=7, repeats=1, batch_size=2)  # buckets of 3, 2 and 2
    sizes = Counter(len(plan.batch(step).entries) for step in range(plan.updates_per_epoch))
    assert plan.updates_per_epoch == 4 and sizes == {2: 3, 1: 1}


def test_any_step_alone_is_as_in_the_whole_run() -> None:
    whole = [make_plan().batch(0)]
    plan = make_plan()
    whole = [plan.batch(step) for step in range(100)]
    assert [make_plan().batch(step) for step in (57, 3, 99)] == [whole[57], whole[3], whole[99]]
    assert [plan.batch(step) for step in (99, 0, 57)] == [whole[99], whole[0], whole[57]]
    assert pickle.loads(pickle.dumps(plan)).batch(42) == whole[42]


def test_epochs_and_seeds_differ_in_order() -> None:
    plan, other = make_plan(), make_plan(seed=1)
    first = [plan.batch(step).entries for step in range(plan.updates_per_epoch)]
    second = [plan.batch(plan.updates_per_epoch + step).entries for step in range(plan.updates_per_epoch)]
    assert first != second
    assert first != [other.batch(step).entries for step in range(plan.updates_per_epoch)]


def test_pictures_without_repeats_are_not_shown() -> None:
    plan = Plan(buckets_of(SIZES, [0, 0, 0], [2, 0, 1], [4]), 0)
    shown = Counter(entry.picture for step in range(plan.updates_per_epoch) for entry in plan.batch(step).entries)
    assert shown == {0: 2, 2: 1}


def test_every_picture_leads_equally_often() -> None:
    """The first batch of an epoch is any of them: no order creeps in."""
    leads = Counter(
        make_plan(pictures=6, repeats=1, batch_size=1, seed=seed).batch(0).entries[0].picture for seed in range(600)
    )
    assert set(leads) == set(range(6)) and all(60 <= count <= 145 for count in leads.values())
