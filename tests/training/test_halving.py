"""A batch for which memory does not suffice is done in halves, with the same gradients as the whole."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from library.core.errors import Exit
from library.training.batch import Batch
from library.training.graphs import CapturedPasses
from library.training.halving import BatchTooLarge, Halving
from library.training.step import Trainer

NewTrainer = Callable[..., Trainer]
NewBatch = Callable[..., Batch]

OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 23.64 GiB of which 3.38 MiB is free. Including "
    "non-PyTorch memory, this process has 23.63 GiB memory in use."
)


def limit(trainer: Trainer, samples: int) -> list[tuple[int, ...]]:
    """Let passes over more samples fail at their end, with their gradients added; returns the parts that are tried."""
    add_gradient, tried = trainer.add_gradient, []

    def limited(batch: Batch, global_size: Tensor) -> Tensor:
        tried.append((len(batch.weight), *batch.part))
        losses = add_gradient(batch, global_size)
        if len(batch.weight) > samples:
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)
        return losses

    trainer.add_gradient = limited  # type: ignore[method-assign]
    return tried


def passes_of(random_batch: NewBatch) -> list[Batch]:
    """Two passes of an update, of five and four samples."""
    return [
        random_batch(3, size=5, global_size=9),
        random_batch(3, size=4, height=16, micro=1, global_size=9, mask=torch.rand(4, 1, 16, 8)),
    ]


def test_the_gradients_are_those_of_the_whole(
    real_trainer: NewTrainer, random_batch: NewBatch, caplog: pytest.LogCaptureFixture
) -> None:
    passes = passes_of(random_batch)
    whole, halved = real_trainer(), real_trainer()
    halved.halving = Halving(enabled=True, stride=8)
    tried = limit(halved, 2)
    expected = torch.cat(whole.accumulate_all(passes))
    with caplog.at_level(logging.WARNING, logger="dojo"):
        found = torch.cat(halved.accumulate_all(passes))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(halved.groups.gradients, whole.groups.gradients, rtol=1e-3, atol=1e-6)
    assert halved.groups.gradients.abs().max() > 0
    done = [(2, 0, 0), (1, 0, 1), (2, 1), (2, 0), (2, 1)]
    assert tried[-5:] == done, "all passes of the update anew, in parts"
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3 and all(message.startswith("step 4: out of memory in a pass over ") for message in told)
    assert "3 pictures of 64x64 (20.00 MiB more were asked for, of the GPU's 23.64 GiB 3.38 MiB are free)" in told[1]

    tried.clear()
    halved.groups.zero_grad()
    halved.accumulate_all(passes)
    assert tried == done, "what was learned is remembered"
    assert len(caplog.records) == 3


def test_parts_draw_dropouts_of_their_own(real_trainer: NewTrainer, random_batch: NewBatch) -> None:
    """Each part's are the same whatever came before it."""
    trainer = real_trainer(network_dropout=0.5)
    trainer.network.train()
    whole = random_batch(0, size=2, prompts=["a", "a"])
    alike = whole.with_tensors(lambda tensor: tensor[:1].expand_as(tensor).contiguous())
    first, second = (trainer.accumulate(half) for half in alike.halves())
    assert not torch.equal(first, second)
    assert torch.equal(second, trainer.accumulate(alike.halves()[1]))


@pytest.mark.parametrize(("on", "samples", "left"), [(False, 4, 5), (True, 0, 1)])
def test_the_run_stops_where_nothing_is_left_to_halve(
    on: bool, samples: int, left: int, real_trainer: NewTrainer, random_batch: NewBatch
) -> None:
    trainer = real_trainer()
    trainer.halving = Halving(on)
    limit(trainer, samples)
    with pytest.raises(BatchTooLarge, match="out of memory in step 4, in a pass over") as stopped:
        trainer.accumulate_all(passes_of(random_batch))
    assert (stopped.value.exit_code, stopped.value.count, stopped.value.size) == (Exit.OUT_OF_MEMORY, left, (64, 64))
    assert stopped.value.__context__ is None, "the error that held the step's memory is gone"
    assert trainer.groups.gradients.abs().max() == 0


def test_other_errors_are_passed_on(real_trainer: NewTrainer, random_batch: NewBatch) -> None:
    trainer = real_trainer()
    trainer.halving = Halving(enabled=True)

    def broken(*arguments: Any) -> Tensor:
        raise RuntimeError("shapes cannot be multiplied")

    trainer.add_gradient = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        trainer.accumulate_all(passes_of(random_batch))


class Again:
    """Records by doing the work again."""

    def __init__(self) -> None:
        self.recorded = 0

    def warm_up(self, work: Callable[[], None], strict: bool) -> None:
        work()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1
        return work

    def close(self) -> None: ...


def test_halves_are_recorded(
    real_trainer: NewTrainer, random_batch: NewBatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The whole never fits, not even in the ordinary passes before a recording; captions are encoded in the step."""
    ordinary, trainer = real_trainer(), real_trainer()
    recorder = Again()
    trainer.halving = Halving(enabled=True)
    limit(trainer, 2)
    sizes = {(8, 8): [4]}
    trainer.captured = CapturedPasses(trainer.add_gradient, trainer.groups.gradients, recorder, sizes)
    for step in range(5):
        batch = random_batch(step, size=4)
        losses = []
        for each in (ordinary, trainer):
            each.groups.zero_grad()
            losses.append(torch.cat(each.accumulate_all([batch])))
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(trainer.groups.gradients, ordinary.groups.gradients, rtol=1e-3, atol=1e-6)
    assert recorder.recorded == 1
    assert "CUDA graphs" not in caplog.text and caplog.text.count("out of memory") == 1
