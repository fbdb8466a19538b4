from __future__ import annotations

import numpy as np

from library.data.cache.lookup import Segment, merged, segment_of, without_shards
from library.data.cache.shards import rows_of, valid_rows

COUNT = 50_000


def random_keys(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 20), np.uint8)


def segment(keys: np.ndarray, shard: int) -> Segment:
    return segment_of(rows_of(keys, np.arange(len(keys)) * 7, np.arange(len(keys)) + 1), shard)


def test_entries_are_found_where_they_are_and_nowhere_else() -> None:
    keys = random_keys(COUNT, 1)
    keys[1000:1200, :8] = keys[0, :8]  # keys that begin alike
    first, second = segment(keys[: COUNT // 2], 3), segment(keys[COUNT // 2 :], 4)
    both = merged([first, second])
    expected = {
        key.tobytes(): (3 + (place >= COUNT // 2), place % (COUNT // 2) * 7, place % (COUNT // 2) + 1)
        for place, key in enumerate(keys)
    }
    for key in [*keys[:5], *keys[1000:1200], *keys[-5:]]:
        assert [tuple(both.places[:, at].tolist()) for at in both.positions(key.tobytes())] == [expected[key.tobytes()]]
    others = random_keys(1000, 2)
    others[:500, :8] = keys[:500, :8]
    assert not any(list(both.positions(key.tobytes())) for key in others)
    asked = np.concatenate([keys[::-1], others])
    lengths = [expected[key.tobytes()][2] for key in keys[::-1]]
    assert both.lengths(asked).tolist() == [*lengths, *[0] * len(others)]
    assert without_shards(both, {3}).lengths(keys).astype(bool).sum() == COUNT // 2


def test_an_entry_takes_32_bytes() -> None:
    found = merged([segment(random_keys(COUNT, seed), seed) for seed in range(3)])
    assert found.prefixes.nbytes + found.rests.nbytes + found.places.nbytes == 32 * 3 * COUNT
    assert all(array.base is None or array.base.nbytes <= array.nbytes for array in (found.prefixes, found.rests))


def test_several_places_of_one_key_are_all_found() -> None:
    keys = random_keys(3, 5)
    twice = merged([segment(keys, 0), segment(keys, 1)])
    assert [int(twice.places[0, at]) for at in twice.positions(keys[1].tobytes())] == [0, 1]


def test_rows_are_what_was_written_or_nothing() -> None:
    keys = random_keys(5, 6)
    data = rows_of(keys, [0, 1, 2, 3, 2**32 - 1], [9, 8, 7, 6, 2**32 - 1]).tobytes()
    assert len(data) == 5 * 32
    rows = valid_rows(data)
    assert rows["offset"].tolist() == [0, 1, 2, 3, 2**32 - 1] and rows["key"][4].tobytes() == keys[4].tobytes()
    assert len(valid_rows(data[:-1])) == 4 and len(valid_rows(bytes(320))) == 0
    for bit in range(8 * 32):
        flipped = bytearray(data)
        flipped[32 + bit // 8] ^= 1 << bit % 8
        assert valid_rows(bytes(flipped))["length"].tolist() == [9, 7, 6, 2**32 - 1]
