"""Numbers come back as they were when they were asked for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from library.core.readback import Readback


def test_numbers_come_back_by_name() -> None:
    readback = Readback({"loss": torch.tensor(0.25), "count": torch.tensor(3), "known": 7, "flag": torch.tensor(True)})
    assert readback.values() == {"loss": 0.25, "count": 3.0, "known": 7.0, "flag": 1.0}
    assert Readback({}).values() == {}


def test_what_happens_to_the_tensors_later_does_not_matter() -> None:
    loss = torch.tensor(1.0, requires_grad=True)
    readback = Readback({"loss": loss})
    with torch.no_grad():
        loss.fill_(2.0)
    assert readback.values() == {"loss": 1.0}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU computes on while the host goes ahead")
def test_a_gpu_is_not_waited_for_before_the_numbers_are_asked_for() -> None:
    values = torch.ones(4096, 4096, device="cuda")
    for _ in range(50):
        values = values @ values / 4096
    readback = Readback({"mean": values.mean()})
    behind = torch.cuda.Event()
    for _ in range(200):
        values = values @ values / 4096
    behind.record()
    former = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert readback.values()["mean"] == pytest.approx(1.0, rel=1e-3)
    finally:
        torch.cuda.set_sync_debug_mode(former)
    assert not behind.query(), "the work that was given later is still under way"


def test_on_a_gpu_one_copy_and_one_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in: the numbers are stacked, copied once without waiting, and only that copy's event is waited for."""
    calls: list[str] = []

    class OnGpu(torch.Tensor):
        device = SimpleNamespace(type="cuda")  # type: ignore[assignment]

    class Event:
        def record(self) -> None:
            calls.append("record")

        def synchronize(self) -> None:
            calls.append("wait")

    plain_stack, plain_empty = torch.stack, torch.empty
    monkeypatch.setattr(torch, "stack", lambda tensors: plain_stack(tensors).as_subclass(OnGpu))
    monkeypatch.setattr(
        torch, "empty", lambda *shape, pin_memory=False: calls.append(f"pinned {pin_memory}") or plain_empty(*shape)
    )
    monkeypatch.setattr(torch.cuda, "Event", Event)
    readback = Readback({"loss": torch.tensor(0.5), "norm": torch.tensor(2.0)})
    assert calls == ["pinned True", "record"]
    assert readback.values() == {"loss": 0.5, "norm": 2.0}
    assert calls == ["pinned True", "record", "wait"]
