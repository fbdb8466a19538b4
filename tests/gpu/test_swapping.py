"""Blocks that come and go give the gradients of blocks that stay, whoever is slow."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from library.models.offload import BlockSwapper, transformer_blocks
from library.models.page_locked import PageLocked
from library.training.batch import Batch
from library.training.step import Trainer

NewTrainer = Callable[..., Trainer]
NewBatch = Callable[..., Batch]

STEPS = 12
CYCLES = 3_000_000
"""About two milliseconds, which is long beside a tiny block."""


@pytest.fixture(autouse=True)
def one_order_of_sums() -> Iterator[None]:
    """Kernels that sum in one order, so that gradients can be compared bit by bit."""
    former = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    with sdpa_kernel(SDPBackend.MATH):
        yield
    torch.backends.cudnn.deterministic = former


@pytest.fixture(params=["copies", "computation", "neither"])
def slow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets one of the two streams lag behind before each copy."""

    def copy(self: BlockSwapper, index: int, original: Callable = BlockSwapper._copy) -> object:
        if self._stream is not None and request.param != "neither":
            late = self._stream if request.param == "copies" else torch.cuda.current_stream()
            with torch.cuda.stream(late):
                torch.cuda._sleep(CYCLES)
        return original(self, index)

    monkeypatch.setattr(BlockSwapper, "_copy", copy)


def gradients(trainer: Trainer, random_batch: NewBatch, step: int) -> Tensor:
    trainer.groups.zero_grad()
    trainer.accumulate(random_batch(step))
    return trainer.groups.gradients.clone()


@pytest.mark.usefixtures("slow")
def test_gradients_are_bitwise_those_of_blocks_that_stay(
    new_trainer: NewTrainer, random_batch: NewBatch, device: torch.device
) -> None:
    stays = new_trainer(checkpointing="whole")
    blocks = len(transformer_blocks(stays.model.hosts(["unet"])["unet"]))
    swaps = new_trainer(checkpointing="whole", blocks_to_swap=blocks)
    steps = STEPS if device.type == "cuda" else 2
    found = [gradients(swaps, random_batch, step) for step in range(steps)]  # not one of them is waited for
    for step, mine in enumerate(found):
        expected = gradients(stays, random_batch, step)
        assert expected.norm() > 0 and torch.equal(mine, expected), f"step {step}"


def test_locked_memory_is_locked_and_given_back(gpu: torch.device) -> None:
    memory = PageLocked(3 * 2**20 + 17, gpu)
    assert memory.refusal is None and memory.bytes.is_pinned()
    memory.bytes.fill_(7)
    assert memory.bytes.to(gpu, non_blocking=True).eq(7).all()
    window = memory.bytes[:100]
    torch.cuda.synchronize()
    del memory
    assert not window.is_pinned() and window.eq(7).all()


def test_a_refusal_does_not_fail_what_comes_next(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    first = PageLocked(2**20, gpu)
    room = first.bytes
    with monkeypatch.context() as patched:
        patched.setattr(torch, "empty", lambda *given, **named: room)  # the same pages again
        again = PageLocked(2**20 - 2**17, gpu)
    assert again.refusal is not None
    assert torch.ones(5, device=gpu).sum() == 5
