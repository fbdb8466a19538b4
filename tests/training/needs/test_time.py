"""What a step computes, and how long a run takes by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from library.inference.requests import SampleRequest
from library.kernels import build
from library.models.live_memory import LiveMemory, fused_attention
from library.models.load import load_model
from library.training.data import build_data, look_through
from library.training.length import Length, plan_length
from library.training.needs import time as needed_time
from library.training.needs.meta_run import ENCODING, STEP, Demand, MetaRun, demand_of, dry_run
from library.training.needs.pace import LEAST, WARM_UP, PaceTaker, note_pace, noted_pace, tell_pace
from library.training.needs.speed import SHORTEST_KERNEL, Machine, Speeds, measured
from library.training.needs.time import WRITTEN, Duration, estimate_time
from library.training.needs.work import Operation, Tally
from library.training.run import Run

FP32 = torch.float32
SPEEDS = Speeds({"product": 1e9, "convolution": 2e9, "attention": 5e8}, reading=1e8, passing=1e7, calling=1e-5)
MACHINE = Machine({FP32: SPEEDS}, calls_ahead=False)


def gone_through(run: Run, demand: Demand) -> MetaRun:
    return dry_run(run, plan_length(run, 2), demand, LiveMemory(), (8.0, 0.0))


def seconds_of_step(run: Run, demand: Demand) -> float:
    found = gone_through(run, demand)
    return MACHINE.seconds(found.work_of(STEP)) + MACHINE.seconds(found.work_of(ENCODING))


def test_a_linear_layer_by_hand() -> None:
    x_NI, weight_OI, bias_O = torch.rand(4, 8), torch.rand(16, 8), torch.rand(16)
    with Tally() as tally:
        F.linear(x_NI, weight_OI, bias_O)
    work = {each: count for each, count in tally.work.items() if each.kind != "view"}
    moved = 4 * (4 * 8 + 16 * 8 + 16 + 4 * 16)
    assert work == {Operation("product", FP32, 2 * 4 * 8 * 16, moved): 1}


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_unet_without_weights_computes_what_the_real_one_does(
    family: str, started: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against PyTorch's own counter, which leaves out attention on a CPU, and sees nothing of what our kernels do."""
    monkeypatch.setattr(build, "library", lambda: None)
    config = started(family, network_train_unet_only="true").config
    totals = []
    for device in ("cpu", "meta"):
        model = load_model(config.model, FP32, torch.device(device))
        conditioning = {name: each.to(device) for name, each in model.encode_prompts(["a", "b"]).items()}
        latents = torch.rand(2, 4, 8, 8).to(device).requires_grad_()
        t = torch.zeros(2, dtype=torch.long, device=device)
        with FlopCounterMode(display=False) as counter, Tally() as tally, fused_attention():
            model.predict(latents, t, conditioning, torch.zeros(2, 6, device=device)).sum().backward()
        ours = sum(each.flops * count for each, count in tally.work.items() if each.kind != "attention")
        assert ours == counter.get_total_flops()
        assert sum(count for each, count in tally.work.items() if each.kind == "attention") > 0
        totals.append(sum(each.flops * count for each, count in tally.work.items()))
    assert totals[0] == totals[1]


def test_an_operator_takes_the_longer_of_its_times() -> None:
    work = Counter(
        {
            Operation("product", FP32, 10**9, 10**6): 2,  # 1 s of arithmetic, 0.01 s of reading
            Operation("convolution", FP32, 10**6, 10**8): 1,  # 0.0005 s, 1 s
            Operation("other", torch.bool, 0, 10**7): 1,  # 1 s
            Operation("view", FP32, 0, 0): 6,
        }
    )
    assert MACHINE.seconds(work) == pytest.approx(2 + 1 + 1 + 10 * 1e-5)
    gpu = replace(MACHINE, calls_ahead=True)
    assert gpu.seconds(work) == pytest.approx(4)
    small = Counter({Operation("other", FP32, 0, 1): 1000, Operation("view", FP32, 0, 0): 1000})
    assert gpu.seconds(small) == pytest.approx(2000 * 1e-5)
    assert gpu.seconds(small, recorded=True) == pytest.approx(1000 * SHORTEST_KERNEL)


def test_more_takes_longer(started: Callable[..., Run]) -> None:
    run = started()
    one = seconds_of_step(run, Demand((64, 64), 1, 3))
    assert one < seconds_of_step(run, Demand((64, 64), 2, 3)) < seconds_of_step(run, Demand((128, 128), 2, 3))
    assert seconds_of_step(started(gradient_checkpointing="true"), Demand((64, 64), 1, 3)) > one
    assert seconds_of_step(started(network_dim=64), Demand((64, 64), 1, 3)) > one


def test_a_device_is_measured_and_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("library.training.needs.speed.TIMED", 0.001)
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    work = Counter({Operation("product", torch.bfloat16, 1, 1): 1, Operation("other", torch.int64, 0, 1): 1})
    machine = measured(torch.device("cpu"), FP32, [work])
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == threads
    assert list(machine.speeds) == [FP32, torch.bfloat16] and not machine.calls_ahead
    for speeds in machine.speeds.values():
        assert min(*speeds.arithmetic.values(), speeds.reading, speeds.passing) > 1e6 and 0 < speeds.calling < 1


@pytest.fixture
def estimated(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Duration]:
    """`estimated(run, requests, save)`: its duration on a machine of known speeds."""
    monkeypatch.setattr(needed_time, "measured", lambda *given: MACHINE)

    def estimate(run: Run, requests: tuple[SampleRequest, ...] = (), save: int = 0) -> Duration:
        model = load_model(run.config.model, run.dtype, run.device)
        data = build_data(run, *look_through(run), model)
        length = plan_length(run, data.updates_per_epoch)
        meta_run = dry_run(run, length, demand_of(run, data, requests), LiveMemory(), (8.0, 0.0))
        return estimate_time(run, data, model, length, requests, meta_run, save)

    return estimate


def test_a_run_is_the_sum_of_its_parts(started: Callable[..., Run], estimated: Callable[..., Duration]) -> None:
    short, long = (estimated(started(max_train_steps=steps), save=10**6) for steps in (4, 40))
    assert long.steps == pytest.approx(10 * short.steps) and long.per_step == pytest.approx(short.per_step)
    assert (short.caching, short.sampling, short.validation) == (0, 0, 0)
    assert short.total == pytest.approx(short.steps + 10**6 / WRITTEN)
    accumulated = estimated(started(max_train_steps=4, gradient_accumulation_steps=2, train_batch_size=1))
    assert accumulated.per_step > short.per_step, "two passes of one picture instead of one of two"


def test_previews_validation_and_caches_are_counted(
    started: Callable[..., Run], estimated: Callable[..., Duration]
) -> None:
    picture = SampleRequest("", width=64, height=64, steps=10)
    options = {"sample_every_n_steps": 2, "max_train_steps": 6, "validation_split": 0.34, "cache_latents": "true"}
    one = estimated(started(**options), (picture,))
    three = estimated(started(**options, sample_at_first="true"), (picture, replace(picture, steps=30)))
    assert three.sampling > 4 * one.sampling > 0, "four times as many denoising steps, five times instead of four"
    assert one.validation > 0 and one.caching > 0
    both = estimated(started(**options, cache_text_encoder_outputs="true", network_train_unet_only="true"))
    assert both.caching > one.caching


def test_short_batches_lie_between(started: Callable[..., Run], estimated: Callable[..., Duration]) -> None:
    """Of three pictures, two are of one shape and one of another."""
    options = {"enable_bucket": "true", "min_bucket_reso": 32, "bucket_reso_steps": 16, "bucket_no_upscale": "true"}
    mixed = estimated(started(**options, max_train_steps=2))
    assert 0 < mixed.per_step < estimated(started(max_train_steps=2)).per_step * 1.5


def test_the_prior_costs_a_forward_pass_where_it_is_kept(
    started: Callable[..., Run], estimated: Callable[..., Duration]
) -> None:
    words = {"trigger_word": "hero", "class_word": "man", "prior_prediction_weight": 5, "train_batch_size": 1}
    never, half, always = (
        estimated(started(**(words | {"prior_prediction_rate": rate} if rate else {"train_batch_size": 1}))).per_step
        for rate in (0, 0.5, 1)
    )
    assert never < half < always and half == pytest.approx((never + always) / 2, rel=0.02)


def length_and_meta(run: Run) -> tuple[Length, MetaRun]:
    model = load_model(run.config.model, run.dtype, run.device)
    data = build_data(run, *look_through(run), model)
    length = plan_length(run, data.updates_per_epoch)
    return length, dry_run(run, length, demand_of(run, data, []), LiveMemory(), (8.0, 0.0))


def test_what_was_measured_is_found_by_what_is_computed(
    started: Callable[..., Run], estimated: Callable[..., Duration], capsys: pytest.CaptureFixture[str]
) -> None:
    run = started(output_name="anna")
    length, meta_run = length_and_meta(run)
    assert noted_pace(run, meta_run) is None
    tell_pace(run, length.span, meta_run)
    assert "estimated time" not in capsys.readouterr().out
    note_pace(run, meta_run, 7.0)
    later = started(output_name="berta", learning_rate=3e-4, max_train_steps=50)
    found = estimated(later)
    assert found.pace is not None and found.pace.name == "anna" and found.per_step == pytest.approx(7.0, rel=0.4)
    tell_pace(later, length_and_meta(later)[0].span, length_and_meta(later)[1])
    assert "estimated time of the steps: 6 min, at 7.0 s each, measured on " in capsys.readouterr().out
    for other in ({"network_dim": 5}, {"train_batch_size": 1}, {"optimizer_type": "Lion"}, {"mixed_precision": "bf16"}):
        assert estimated(started(**other)).pace is None


def test_a_damaged_note_is_none(started: Callable[..., Run], tmp_path) -> None:
    run = started()
    _, meta_run = length_and_meta(run)
    note_pace(run, meta_run, 1.0)
    [note] = (tmp_path / "cache" / "paces").iterdir()
    values = (f'{{"seconds": {value}, "date": "", "name": ""}}' for value in ("NaN", "1e999", "-1", "0"))
    for text in ("{", "[]", '{"seconds": "x"}', "\0", *values):
        note.write_text(text, encoding="utf-8")
        assert noted_pace(run, meta_run) is None


def test_full_batches_of_the_largest_size_are_timed(started: Callable[..., Run]) -> None:
    run = started()
    _, meta_run = length_and_meta(run)
    taker = PaceTaker(run, meta_run, 8)

    def report(count: int, side: int, seconds: float) -> SimpleNamespace:
        return SimpleNamespace(batches=[SimpleNamespace(latents=torch.empty(count, 4, side, side))], seconds=seconds)

    for _ in range(WARM_UP + LEAST - 1):
        taker.after_step(report(2, 8, 3.0))  # type: ignore[arg-type]
        taker.after_step(report(1, 8, 1.0))  # type: ignore[arg-type]
        taker.after_step(report(2, 4, 1.0))  # type: ignore[arg-type]
    taker.after_training(60)
    assert noted_pace(run, meta_run) is None, "one is lacking"
    taker.after_step(report(2, 8, 3.0))  # type: ignore[arg-type]
    taker.before_stop(61)
    pace = noted_pace(run, meta_run)
    assert pace is not None and pace.seconds == 3.0
