"""Page-locked memory, with a stand-in for CUDA that notes what it is asked for."""

from __future__ import annotations

import gc
import logging
import mmap

import pytest
import torch
from torch import nn

from library.models import offload
from library.models.page_locked import PageLocked

CUDA = torch.device("cuda")


class Cudart:
    """Notes what is locked; `code` is its answer."""

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.locked: dict[int, int] = {}

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        if self.code == 0:
            self.locked[address] = size
        return self.code

    def cudaHostUnregister(self, address: int) -> int:
        del self.locked[address]
        return 0

    def cudaGetErrorString(self, code: int) -> str:
        return f"error {code}"


@pytest.fixture
def cudart(monkeypatch: pytest.MonkeyPatch) -> Cudart:
    stand_in = Cudart()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: stand_in)
    return stand_in


def test_whole_pages_are_locked_and_hardly_more_than_is_asked_for(cudart: Cudart) -> None:
    size = 66 * 2**20 + 5
    memory = PageLocked(size, CUDA)
    ((address, locked),) = cudart.locked.items()
    assert memory.bytes.shape == (size,) and memory.bytes.data_ptr() == address
    assert address % mmap.PAGESIZE == 0 and locked % mmap.PAGESIZE == 0 and size <= locked < size + mmap.PAGESIZE
    storage = memory.bytes.untyped_storage()
    assert address + locked <= storage.data_ptr() + storage.nbytes() < address + locked + 2 * mmap.PAGESIZE


def test_it_is_unlocked_before_it_is_freed(cudart: Cudart) -> None:
    memory = PageLocked(100, CUDA)
    window = memory.bytes[:10]
    assert cudart.locked
    del memory
    gc.collect()
    assert not cudart.locked and window.fill_(3).sum() == 30


def test_nothing_is_asked_for_nothing(cudart: Cudart) -> None:
    assert PageLocked(0, CUDA).refusal is None and not cudart.locked


def test_where_it_is_refused_the_block_works_all_the_same(
    cudart: Cudart, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    cudart.code = 2

    def launch(*given: object, **named: object) -> None:
        raise RuntimeError("CUDA error: out of memory, left over from the refusal")

    monkeypatch.setattr(torch, "ones", launch)
    blocks = [nn.Linear(3, 3), nn.Linear(3, 3)]
    before = [block.weight.detach().clone() for block in blocks]
    with caplog.at_level(logging.WARNING, logger="dojo"):
        offload.BlockSwapper(blocks, CUDA)
    assert all(torch.equal(block.weight, weight) for block, weight in zip(blocks, before, strict=True))
    assert caplog.text.count("page-locked") == 1 and "2 of 2 blocks could not be page-locked (error 2)" in caplog.text


def test_the_blocks_of_a_swapper_lie_in_locked_memory(cudart: Cudart, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    block = nn.Linear(64, 64)
    offload.BlockSwapper([block], CUDA)
    ((address, size),) = cudart.locked.items()
    assert address <= block.weight.data_ptr() and block.weight.data_ptr() + block.weight.nbytes <= address + size
