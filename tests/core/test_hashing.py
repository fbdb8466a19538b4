from __future__ import annotations

import hashlib

from library.core.hashing import content_hash, digest, digest_of_many


def test_each_part_goes_in_with_its_length() -> None:
    expected = hashlib.blake2b("2:ü1:b0:".encode(), digest_size=20).hexdigest()
    assert digest("ü", "b", "") == digest_of_many(iter(["ü", "b", ""])) == expected
    assert len({digest("ab", "c"), digest("a", "bc"), digest("abc"), digest("abc", "")}) == 4


def test_contents_are_known_by_their_bytes() -> None:
    assert content_hash(b"") == hashlib.blake2b(b"", digest_size=20).hexdigest() != content_hash(b"\0")
