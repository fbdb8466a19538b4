"""Memory is given back however the sampling ends."""

from __future__ import annotations

import pytest

from library.inference.requests import SampleRequest
from library.inference.sample import generate

REQUEST = SampleRequest("a cat", width=16, height=16, steps=1)


@pytest.fixture
def model(load, monkeypatch: pytest.MonkeyPatch):
    """A tiny model that notes which parts it was told to release."""
    found = load("sd15")
    found.released = []
    monkeypatch.setattr(found, "release", found.released.append)
    return found


@pytest.mark.parametrize("breaks", ["encode_prompts", "predict", "decode_latents"])
def test_parts_are_released_where_sampling_fails(model, breaks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model, breaks, fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(generate(model, [REQUEST], keep=["unet"]))
    assert set(model.released) == {"vae", "text_encoders"}


def test_parts_are_released_where_not_every_picture_is_asked_for(model) -> None:
    pictures = generate(model, [REQUEST, REQUEST], keep=["unet"])
    next(pictures)
    pictures.close()
    assert set(model.released) == {"vae", "text_encoders"}


def test_what_is_kept_is_never_released(model) -> None:
    list(generate(model, [REQUEST]))
    assert model.released == []
