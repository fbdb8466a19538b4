from __future__ import annotations

import pytest

from library.models import caption_length
from library.models.caption_length import caption_counter


def test_tokens_are_those_of_clip() -> None:
    count = caption_counter(weighted=False)
    assert count("a photo of a cat") == 5
    assert count("a cat, otorhinolaryngologist") == 3 + len(["o", "tor", "hin", "ol", "ar", "yn", "go", "logist"])
    assert count("(cat:1.2)") == 7
    assert caption_counter(weighted=True)("(cat:1.2)") == 1


def test_without_the_vocabulary_as_many_as_there_are_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_length, "_clip", lambda: None)
    assert caption_counter(weighted=False)("a cat, otorhinolaryngologist") == 4
