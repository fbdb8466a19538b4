"""Replays are the ordinary passes, for every network and in every way to train."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from library.training.batch import Batch
from library.training.graphs import WARM_UP_USES, CapturedPasses, ordinary_pass
from library.training.loop import Span, fit
from library.training.recorder import LEAST_TORCH, CudaRecorder
from library.training.step import Trainer
from networks.build import find_plugin
from tests.gpu.conftest import Counting
from tests.networks.cases import CASES, ONE_OF_EACH, NetworkCase

NewTrainer = Callable[..., Trainer]
NewBatch = Callable[..., Batch]

CAPTURABLE = [case for case in CASES if getattr(find_plugin(case.module), "capturable", False)]

OFF = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.02}
"""Largest difference as a share of the norm: the order of atomic sums, beside which something stale is off by about 1."""


SMALLEST_SEGMENT = 2 * 2**20
"""Bytes; the generator of random numbers may keep some of its own."""


def check_replays(trainer: Trainer, recorder: Counting, new: Callable[[int], Batch], dtype: torch.dtype) -> None:
    """Record, and compare two replays of other batches at other seeds with ordinary passes."""
    gradients = trainer.groups.gradients
    passes = CapturedPasses(trainer.add_gradient, gradients, recorder, {})
    trainer.loss_scale.scale.clamp_(max=1024.0)  # a pass that overflows would not be recorded
    for step in range(WARM_UP_USES + 1):
        passes(trainer.with_tokens(new(step)), seed=step)
    for seed in (11, 12):
        if trainer.loss_scale.enabled:
            trainer.loss_scale.scale.mul_(0.25)
        batch = trainer.with_tokens(new(seed))
        trainer.groups.zero_grad()
        found = passes(batch, seed), gradients.clone()
        trainer.groups.zero_grad()
        expected = ordinary_pass(trainer.add_gradient, batch, seed, trainer.device), gradients.clone()
        for mine, ordinary in zip(found, expected, strict=True):
            assert ordinary.isfinite().all() and ordinary.norm() > 0
            assert (mine - ordinary).norm() <= OFF[dtype] * ordinary.norm()
    assert recorder.recorded == 1 and not recorder.given_up


@pytest.mark.parametrize("drawing", [False, True], ids=["", "dropout"])
@pytest.mark.parametrize("case", CAPTURABLE, ids=str)
def test_every_network(
    case: NetworkCase,
    drawing: bool,
    new_trainer: NewTrainer,
    recorder: Counting,
    random_batch: NewBatch,
    device: torch.device,
) -> None:
    if device.type == "cpu" and case not in ONE_OF_EACH:
        pytest.skip("the other cases are for a GPU")
    if drawing and not case.dropout:
        pytest.skip("draws no random numbers")
    extra: dict[str, Any] = dict(case.dropout or {}) if drawing else {}
    arguments = {**case.arguments, **extra.pop("network_args", {})}
    network = {"network_module": case.module, "network_args": arguments, **extra}
    check_replays(new_trainer(network=network), recorder, random_batch, torch.float32)


@pytest.mark.parametrize(
    "settings",
    [
        {"checkpointing": "whole"},
        {"checkpointing": "selective"},
        {"dtype": torch.bfloat16},
        {"dtype": torch.float16},
        {"quantize_base": "int8"},
        {"quantize_base": "fp8"},
        {"quantize_base": "nf4"},
        {"dtype": torch.bfloat16, "quantize_base": "nf4", "checkpointing": "whole"},
    ],
    ids=str,
)
def test_every_way_to_train(
    settings: dict[str, Any], new_trainer: NewTrainer, recorder: Counting, random_batch: NewBatch
) -> None:
    """fp16 with a loss scale that changes between the replays."""
    check_replays(new_trainer(**settings), recorder, random_batch, settings.get("dtype", torch.float32))


@pytest.mark.parametrize("kind", ["prior", "mask", "cached"])
def test_every_kind_of_batch(kind: str, new_trainer: NewTrainer, recorder: Counting, random_batch: NewBatch) -> None:
    """Captions are encoded in the step, unless they are cached."""
    trainer = new_trainer()
    conditioning = {name: tensor.cpu() for name, tensor in trainer.model.encode_prompts(["a fighter", "b"]).items()}
    changed: dict[str, dict[str, Any]] = {
        "prior": {"keeps_prior": torch.tensor([True, False])},
        "mask": {"mask": torch.rand(2, 1, 8, 8)},
        "cached": {"conditioning": conditioning},
    }
    check_replays(trainer, recorder, lambda step: random_batch(step, **changed[kind]), torch.float32)


def short_run(trainer: Trainer, random_batch: NewBatch, first: int, last: int) -> None:
    """Updates of two passes, of two shapes in turn."""
    batches = [
        random_batch(step, micro=micro, height=8 * (1 + step % 2), global_size=4)
        for step in range(first, last)
        for micro in range(2)
    ]
    fit(trainer, iter(batches), Span(first, last, updates_per_epoch=100, accumulation=2), [])


def test_a_run_with_recordings_is_the_run_without_and_warns_of_nothing(
    new_trainer: NewTrainer, recorder: Counting, random_batch: NewBatch
) -> None:
    found = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for records in (True, False):
            trainer = new_trainer(network={"network_dropout": 0.3})
            start = trainer.groups.values.clone()
            if records:
                trainer.captured = CapturedPasses(trainer.add_gradient, trainer.groups.gradients, recorder, {})
            short_run(trainer, random_batch, 0, 6)
            found.append(trainer.groups.values - start)
    assert [str(each.message) for each in warned if issubclass(each.category, UserWarning)] == []
    assert recorder.recorded == 2 and not recorder.given_up
    # Adam's first steps have one length whatever the gradient's, so that rounding may turn single ones around
    assert (found[0] - found[1]).norm() <= 0.02 * found[1].norm()


@pytest.mark.parametrize("records", [True, False])
def test_nothing_waits_for_the_device(
    records: bool,
    gpu: torch.device,
    device: torch.device,
    new_trainer: NewTrainer,
    recorder: Counting,
    random_batch: NewBatch,
) -> None:
    if device.type == "cpu":
        pytest.skip("the CPU waits for nobody")
    trainer = new_trainer()
    if records:
        trainer.captured = CapturedPasses(trainer.add_gradient, trainer.groups.gradients, recorder, {})
    short_run(trainer, random_batch, 0, 6)
    former = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        short_run(trainer, random_batch, 6, 10)
    finally:
        torch.cuda.set_sync_debug_mode(former)
    assert recorder.recorded == 2 * records and not recorder.given_up


def test_an_update_with_a_broken_gradient_changes_nothing(new_trainer: NewTrainer) -> None:
    """The optimizer's kernel is told so on the device."""
    trainer = new_trainer()
    before = trainer.groups.values.clone()
    for value, broken in [(torch.inf, 1), (torch.nan, 1), (0.01, 0)]:
        trainer.groups.extra.zero_()
        trainer.groups.gradients.fill_(value)
        figures = trainer.update_weights(0, trainer.clip(), [])
        assert figures.values()["broken"] == broken
        assert torch.equal(trainer.groups.values, before) == bool(broken)


def test_a_recording_that_breaks_off_leaves_nothing_behind(gpu: torch.device) -> None:
    if torch.__version__ < LEAST_TORCH:
        pytest.skip("CUDA graphs are off with this torch")

    def good() -> None:
        torch.ones(2**22, device=gpu).mul_(2)

    def waits() -> None:
        torch.ones(2**22, device=gpu)[0].item()

    def other() -> None:
        torch.randn(2**20, device=gpu)

    torch.randn(1, device=gpu)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    recorder = CudaRecorder(gpu)
    recorder.warm_up(good, strict=True)
    replay = recorder.record(good)
    replay()
    with pytest.raises(RuntimeError):
        recorder.warm_up(waits, strict=True)
    with pytest.raises(RuntimeError):
        recorder.record(waits)
    assert torch.cuda.memory_reserved() > before
    torch.cuda.synchronize()
    del replay
    recorder.close()
    assert torch.cuda.memory_reserved() <= before + SMALLEST_SEGMENT
    assert torch.randn(9, device=gpu).isfinite().all(), "random numbers are drawn as ever"
    again = CudaRecorder(gpu)
    again.warm_up(other, strict=True)
    again.record(other)()
    torch.cuda.synchronize()
