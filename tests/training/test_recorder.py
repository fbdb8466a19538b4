"""What can be said of CUDA graphs without a GPU: when none is recorded, and what is given back; the rest is in tests/gpu."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from library.training import recorder as module
from library.training.recorder import CudaRecorder, obstacle

POOL, OTHER = (0, 7), (0, 0)


@pytest.fixture(autouse=True)
def new_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_TORCH", "2.0")


@pytest.mark.parametrize(
    ("device", "facts", "said"),
    [
        ("cpu", (True, False, False), "on 'cpu'"),
        ("cuda", (False, False, False), "network_module"),
        ("cuda", (True, True, False), "together with gradient_checkpointing"),
        ("cuda", (True, False, True), "blocks_to_swap"),
    ],
)
def test_what_is_known_not_to_work_is_not_tried(device: str, facts: tuple[bool, bool, bool], said: str) -> None:
    reason = obstacle(torch.device(device), *facts)
    assert reason is not None and said in reason


def test_nothing_else_stands_in_the_way() -> None:
    assert obstacle(torch.device("cuda"), True, False, False) is None


def test_an_older_torch_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_TORCH", "99.1")
    assert "they need torch 99.1, and this is " in str(obstacle(torch.device("cuda"), True, False, False))


class Allocator:
    """Stands in for CUDA's: a pool is given back once it has no users, and one that is given back too often is an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, counts_broken: bool) -> None:
        self.counts_broken = counts_broken
        self.users = 0
        self.segments = [{"segment_pool_id": OTHER, "active_size": 0}]
        stream = SimpleNamespace(device=torch.device("cuda", 1))
        graph = self

        class Recording:
            def __init__(self, *given: Any, **named: Any) -> None: ...

            def __enter__(self) -> None:
                graph.users += 1
                graph.segments.append({"segment_pool_id": POOL, "active_size": 0})

            def __exit__(self, *given: object) -> None:
                graph.users -= not graph.counts_broken

        for name, value in {
            "Stream": lambda device: stream,
            "graph_pool_handle": lambda: POOL,
            "current_stream": lambda: stream,
            "set_stream": lambda stream: None,
            "CUDAGraph": lambda: SimpleNamespace(replay=None),
            "graph": Recording,
            "memory_snapshot": lambda: self.segments,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(module, "give_back_memory", self.empty)
        monkeypatch.setattr(torch._C, "_cuda_releasePool", self.release, raising=False)

    def empty(self) -> None:
        if not self.users:
            self.segments = [segment for segment in self.segments if segment["segment_pool_id"] != POOL]

    def release(self, device: int, pool: tuple[int, int]) -> None:
        assert (device, pool) == (1, POOL)
        self.users -= 1
        assert self.users >= 0, "torch ends the process here"


def breaks() -> None:
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize("counts_broken", [True, False])
def test_the_memory_of_a_recording_that_broke_off_is_given_back_once(
    monkeypatch: pytest.MonkeyPatch, counts_broken: bool
) -> None:
    """torch 2.13 goes on counting it as a user of the pool, later ones do not."""
    allocator = Allocator(monkeypatch, counts_broken)
    recorder = CudaRecorder(torch.device("cuda"))
    with pytest.raises(RuntimeError, match="capturing"):
        recorder.record(breaks)
    recorder.close()
    assert allocator.users == 0
    assert [segment["segment_pool_id"] for segment in allocator.segments] == [OTHER]


def test_a_pool_that_somebody_still_uses_is_left_to_him(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = Allocator(monkeypatch, counts_broken=True)
    recorder = CudaRecorder(torch.device("cuda"))
    recorder.record(lambda: None)
    recorder.close()
    assert allocator.users == 1


def test_an_allocator_without_a_list_of_its_memory_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_list() -> None:
        raise RuntimeError("cudaMallocAsync does not yet support snapshot")

    Allocator(monkeypatch, counts_broken=True)
    monkeypatch.setattr(torch.cuda, "memory_snapshot", no_list)
    recorder = CudaRecorder(torch.device("cuda"))
    with pytest.raises(RuntimeError):
        recorder.record(breaks)
    recorder.close()


@pytest.mark.parametrize("strict", [True, False])
def test_only_a_strict_pass_watches_for_waiting(monkeypatch: pytest.MonkeyPatch, strict: bool) -> None:
    modes: list[int | str] = [0]
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: POOL)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: torch.no_grad())
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    seen: list[int | str] = []
    work: Callable[[], None] = lambda: seen.append(modes[-1])  # noqa: E731
    CudaRecorder(torch.device("cuda")).warm_up(work, strict)
    assert seen == (["error"] if strict else [0])
    assert modes == ([0, "error", 0] if strict else [0])
