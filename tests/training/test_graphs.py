"""Recorded passes, with a stand-in for CUDA that "records" a closure over the same fixed buffers."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from library.training import graphs
from library.training.batch import Batch
from library.training.graphs import WARM_UP_USES, CapturedPasses, signature_of
from library.training.loop import Span, fit
from library.training.recorder import Recorder
from library.training.step import Trainer

NewBatch = Callable[..., Batch]

FIRST_REPLAY = WARM_UP_USES + 1


class StandIn:
    """Does recorded work by doing it again."""

    def __init__(self) -> None:
        self.warm_ups: list[bool] = []
        self.recorded = 0
        self.replayed = 0
        self.closed = 0

    def warm_up(self, work: Callable[[], None], strict: bool) -> None:
        self.warm_ups.append(strict)
        work()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            work()

        return replay

    def close(self) -> None:
        self.closed += 1


class Toy:
    """A pass simple enough to be computed by hand: loss = weight x mean of the latents, gradient = sum of the losses."""

    def __init__(self) -> None:
        self.gradients = torch.zeros(3)
        self.sizes: list[int] = []

    def __call__(self, batch: Batch, global_size: Tensor) -> Tensor:
        self.sizes.append(len(batch.weight))
        losses = self.losses(batch)
        self.gradients += losses.sum() / global_size
        return losses

    @staticmethod
    def losses(batch: Batch) -> Tensor:
        losses = batch.weight * batch.latents.mean(dim=(1, 2, 3)) * batch.multiplier
        return losses if batch.mask is None else losses * batch.mask.mean()

    def check(self, passes: CapturedPasses, batch: Batch) -> None:
        """One pass does what it should, whatever the gradients were before."""
        before = self.gradients.clone()
        losses = passes(batch, seed=batch.step)
        torch.testing.assert_close(losses, self.losses(batch))
        torch.testing.assert_close(self.gradients, before + self.losses(batch).sum() / batch.global_size)


@pytest.fixture
def toy() -> Toy:
    return Toy()


def passes_of(toy: Toy, recorder: Recorder | None = None, sizes: tuple[int, ...] = (2,)) -> CapturedPasses:
    return CapturedPasses(toy, toy.gradients, recorder or StandIn(), {(8, 8): sizes})


def test_a_shape_is_recorded_after_some_ordinary_uses_and_then_replayed(toy: Toy, random_batch: NewBatch) -> None:
    recorder = StandIn()
    passes = passes_of(toy, recorder)
    for step in range(6):
        toy.check(passes, random_batch(step))
    assert recorder.warm_ups == [False] * WARM_UP_USES + [True], "the last one watches for what cannot be recorded"
    assert (recorder.recorded, recorder.replayed) == (1, 6 - WARM_UP_USES)


def test_what_a_recording_is_bound_to_has_one_of_its_own(toy: Toy, random_batch: NewBatch) -> None:
    recorder = StandIn()
    passes = passes_of(toy, recorder)
    kinds = [
        {},
        {"height": 16},
        {"mask": torch.full((2, 1, 8, 8), 0.5)},
        {"multiplier": 0.5},
        {"conditioning": {"hidden": torch.zeros(2, 5, 3)}},
        {"tokens": {"ids": torch.zeros(2, 1, 77, dtype=torch.int64)}},
    ]
    for step in range(5):
        for kind in kinds:
            toy.check(passes, random_batch(step, **kind))
    assert recorder.recorded == len(kinds)
    assert len({signature_of(random_batch(0, **kind)) for kind in kinds}) == len(kinds)
    assert signature_of(random_batch(0)) == signature_of(random_batch(1, global_size=7))


def test_a_short_batch_is_filled_up_with_samples_that_weigh_nothing(toy: Toy, random_batch: NewBatch) -> None:
    recorder = StandIn()
    passes = passes_of(toy, recorder, sizes=(2, 4))
    for step in range(8):
        toy.check(passes, random_batch(step, size=3 + step % 2))
    assert set(toy.sizes) == {4}
    assert recorder.recorded == 1
    toy.check(passes, random_batch(9, size=5))
    assert toy.sizes[-1] == 5, "more than any batch should have: left as it is"
    toy.check(passes, random_batch(9, size=3, height=16))
    assert toy.sizes[-1] == 3, "batches of this shape are never fuller"
    toy.check(passes, random_batch(9, size=3).halves()[0])
    assert toy.sizes[-1] == 2, "a part is to be smaller"


def test_a_recording_that_differs_is_given_up(
    toy: Toy, random_batch: NewBatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Twice(StandIn):
        def record(self, work: Callable[[], None]) -> Callable[[], None]:
            return lambda: (work(), work())[0]

    passes = passes_of(toy, Twice())
    for step in range(5):
        toy.check(passes, random_batch(step))
    assert caplog.text.count("CUDA graphs are off") == 1
    assert "gradients by 100.0%" in caplog.text


def test_a_recording_that_reads_a_stale_batch_is_given_up(
    toy: Toy, random_batch: NewBatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Stale(StandIn):
        def record(self, work: Callable[[], None]) -> Callable[[], None]:
            return lambda: toy.gradients.add_(0.1)

    passes = passes_of(toy, Stale())
    for step in range(5):
        toy.check(passes, random_batch(step))
    assert "a replay differs" in caplog.text


def test_decisions_by_random_numbers_that_python_takes_are_found(
    random_batch: NewBatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Recorded, each would be what it was at that moment. The stand-in freezes them as a graph does."""
    gradients = torch.zeros(64)

    def deciding(batch: Batch, global_size: Tensor) -> Tensor:
        for place in range(64):
            if torch.rand(()) < 0.5:
                gradients[place] += batch.weight.sum()
        return batch.weight.clone()

    class Freezing(StandIn):
        def record(self, work: Callable[[], None]) -> Callable[[], None]:
            before = gradients.clone()
            work()
            added = gradients - before
            return lambda: gradients.add_(added)

    passes = CapturedPasses(deciding, gradients, Freezing(), {})
    for step in range(FIRST_REPLAY):
        passes(random_batch(0), seed=step)
    assert "a replay differs" in caplog.text


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("called a synchronizing CUDA operation\nwith a long story"),
            "called a synchronizing CUDA operation.",
        ),
        (torch.OutOfMemoryError("CUDA out of memory."), "out of memory while a pass was recorded."),
    ],
)
@pytest.mark.parametrize("where", ["warm_up", "record"])
def test_what_cannot_be_recorded_trains_on(
    toy: Toy, random_batch: NewBatch, caplog: pytest.LogCaptureFixture, error: RuntimeError, said: str, where: str
) -> None:
    class Failing(StandIn):
        def warm_up(self, work: Callable[[], None], strict: bool) -> None:
            super().warm_up(work, strict)
            if where == "warm_up" and strict:
                raise error

        def record(self, work: Callable[[], None]) -> Callable[[], None]:
            work()
            try:
                raise error
            finally:
                raise RuntimeError("the recording broke off")  # as CUDA says of any error within

    recorder = Failing()
    passes = passes_of(toy, recorder)
    for step in range(6):
        toy.check(passes, random_batch(step))
    assert caplog.text.count("CUDA graphs are off") == 1
    assert recorder.closed == 1
    assert said in caplog.text


def test_memory_that_does_not_suffice_beside_the_recordings_is_taken_from_them(
    toy: Toy, random_batch: NewBatch, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "MOST_SHAPES", 1)
    passes = passes_of(toy)
    for step in range(FIRST_REPLAY):
        toy.check(passes, random_batch(step))
        toy.check(passes, random_batch(step, height=16))
    failures = [torch.OutOfMemoryError("CUDA out of memory.")]
    ordinary = toy.__call__

    def short_of_memory(batch: Batch, global_size: Tensor) -> Tensor:
        losses = ordinary(batch, global_size)
        if failures:
            raise failures.pop()
        return losses

    passes._add_gradient = short_of_memory
    toy.check(passes, random_batch(7, height=16))
    assert "out of memory beside the recorded passes" in caplog.text


def test_an_ordinary_pass_that_does_not_fit_says_nothing_of_graphs(
    toy: Toy, random_batch: NewBatch, caplog: pytest.LogCaptureFixture
) -> None:
    def short_of_memory(batch: Batch, global_size: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    passes = CapturedPasses(short_of_memory, toy.gradients, StandIn(), {})
    with pytest.raises(torch.OutOfMemoryError):
        passes(random_batch(0), 0)
    assert "CUDA graphs" not in caplog.text


def test_an_ordinary_pass_that_does_not_fit_beside_recordings_takes_their_memory(
    toy: Toy, random_batch: NewBatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(StandIn):
        def warm_up(self, work: Callable[[], None], strict: bool) -> None:
            super().warm_up(work, strict)
            if self.recorded:
                raise torch.OutOfMemoryError("CUDA out of memory.")

    recorder = Full()
    passes = passes_of(toy, recorder)
    for step in range(FIRST_REPLAY):
        toy.check(passes, random_batch(step))
    toy.check(passes, random_batch(7, height=16))
    assert "out of memory beside the recorded passes" in caplog.text
    assert recorder.closed == 1


def test_the_number_of_recordings_is_bounded(
    toy: Toy, random_batch: NewBatch, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "MOST_SHAPES", 2)
    recorder = StandIn()
    passes = passes_of(toy, recorder)
    for step in range(6):
        for height in (8, 16, 24, 32):
            toy.check(passes, random_batch(step, height=height))
    assert recorder.recorded == 2
    assert caplog.text.count("more than 2 shapes") == 1


def test_a_pass_that_overflows_does_not_stop_recording(toy: Toy, random_batch: NewBatch) -> None:
    """The first passes under fp16's loss scale do."""
    recorder = StandIn()
    passes = passes_of(toy, recorder)
    for step in range(4):
        passes(random_batch(step, weight=torch.tensor([torch.inf, 1.0])), seed=0)
        toy.gradients.zero_()
    assert recorder.recorded == 0
    for step in range(2):
        toy.check(passes, random_batch(step))
    assert recorder.recorded == 1


# --- the real step


@pytest.mark.parametrize("settings", [{}, {"network_dropout": 0.3, "network_args": {"module_dropout": "0.3"}}])
def test_recorded_training_is_bitwise_ordinary_training(
    real_trainer: Callable[..., Trainer], random_batch: NewBatch, settings: dict
) -> None:
    """Two shapes, two passes an update, captions encoded in the step, prior prediction, dropout."""
    ordinary, recorded = (real_trainer(network_dim=2, **settings) for _ in range(2))
    recorder = StandIn()
    recorded.captured = CapturedPasses(recorded.add_gradient, recorded.groups.gradients, recorder, {})
    batches = [
        random_batch(
            step // 2, micro=step % 2, height=8 * (1 + step % 4 // 2), global_size=4,
            keeps_prior=torch.tensor([True, step % 2 == 0]),
        )
        for step in range(16)
    ]  # fmt: skip
    for trainer in (ordinary, recorded):
        fit(trainer, iter(batches), Span(0, 8, updates_per_epoch=4, accumulation=2), [])
    assert recorder.recorded == 2
    assert torch.equal(ordinary.groups.values, recorded.groups.values)


def test_a_filled_up_batch_has_the_gradients_of_the_short_one(
    real_trainer: Callable[..., Trainer], random_batch: NewBatch, caplog: pytest.LogCaptureFixture
) -> None:
    ordinary, recorded = (real_trainer(network_dim=2) for _ in range(2))
    recorded.captured = CapturedPasses(recorded.add_gradient, recorded.groups.gradients, StandIn(), {(8, 8): [3]})
    with caplog.at_level(logging.INFO):
        for step in range(FIRST_REPLAY + 1):
            batch = random_batch(step, size=1 + step % 2, global_size=5)
            for trainer in (ordinary, recorded):
                trainer.groups.zero_grad()
            torch.testing.assert_close(recorded.accumulate(batch), ordinary.accumulate(batch), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(recorded.groups.gradients, ordinary.groups.gradients, rtol=1e-3, atol=1e-6)
    assert "CUDA graphs" not in caplog.text
