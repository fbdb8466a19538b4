"""Every random number of a sample comes from its position in the run, and from nothing else."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from library.config.schema import NoiseConfig
from library.core.errors import Exit, UserError
from library.core.randomness import torch_generator
from library.data.pictures.placement import Geometry
from library.data.types import BrokenLatents, Example, LatentDistribution, MicroBatch
from library.training.batch import Batch, Collate, Draws, assemble, encode_and_assemble, sendable

SHAPE = (4, 6, 8)
SEED = 11
CPU = torch.device("cpu")


def distribution(number: int) -> LatentDistribution:
    draw = torch.Generator().manual_seed(number)
    return LatentDistribution(torch.randn(SHAPE, generator=draw), torch.rand(SHAPE, generator=draw) + 0.1)


def example(step: int, place: int, picture: int = 0, **changed: object) -> Example:
    plain = Example(
        position=(step, place),
        image=f"{picture}.png",
        caption=f"picture {picture}",
        latents=distribution(picture),
        pixels=None,
        conditioning=None,
        mask=None,
        geometry=Geometry((48, 64), (1, 2), (46, 60)),
        weight=1.0,
        keeps_prior=False,
        multiplier=1.0,
    )
    return replace(plain, **changed)


def micro(*examples: Example, step: int = 3) -> MicroBatch:
    return MicroBatch(list(examples), step=step, micro=1, epoch=2, global_size=6)


def draws(seed: int = SEED, timesteps: range = range(1000), **noise: object) -> Draws:
    return Draws(seed, NoiseConfig(**noise), timesteps)


def batch_of(*examples: Example, **how: object) -> Batch:
    found = Collate(draws(**how))(micro(*examples))
    assert isinstance(found, Batch)
    return found


def standard_normal(stream: str, step: int, place: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch_generator(SEED, stream, step, place))


def test_latents_are_the_mean_and_so_many_deviations() -> None:
    found = batch_of(example(3, 0), example(3, 5, picture=1))
    for row, (picture, place) in enumerate([(0, 0), (1, 5)]):
        vae = distribution(picture)
        assert torch.equal(found.latents[row], vae.mean + vae.std * standard_normal("latents", 3, place))


def test_noise_is_standard_normal_and_independent_of_the_latents_draw() -> None:
    found = batch_of(example(3, 4))
    assert torch.equal(found.noise[0], standard_normal("noise", 3, 4))
    assert torch.equal(found.corrupting_noise, found.noise)
    assert not torch.equal(found.noise[0], standard_normal("latents", 3, 4))


def test_input_perturbation_leaves_the_target_as_it_was() -> None:
    plain, perturbed = batch_of(example(3, 0)), batch_of(example(3, 0), ip_noise_gamma=0.5)
    assert torch.equal(perturbed.noise, plain.noise)
    added = (perturbed.corrupting_noise - plain.noise) / 0.5
    assert abs(added.mean()) < 4 / math.sqrt(added.numel())
    assert 0.8 < added.std() < 1.2


def test_a_sample_draws_the_same_in_any_company() -> None:
    alone = batch_of(example(3, 2, picture=1))
    together = batch_of(example(3, 1), example(3, 2, picture=1), example(3, 3))
    for name in ("latents", "noise", "corrupting_noise", "timesteps"):
        assert torch.equal(getattr(together, name)[1], getattr(alone, name)[0]), name


@pytest.mark.parametrize("changed", [(4, 2), (3, 3)])
def test_another_step_or_place_draws_otherwise(changed: tuple[int, int]) -> None:
    one, other = batch_of(example(3, 2)), batch_of(example(*changed))
    assert not torch.equal(one.latents, other.latents)
    assert not torch.equal(one.noise, other.noise)


def test_another_seed_draws_otherwise() -> None:
    one, other = batch_of(example(3, 2)), batch_of(example(3, 2), seed=SEED + 1)
    assert not torch.equal(one.latents, other.latents)
    assert not torch.equal(one.noise, other.noise)


def test_timesteps_are_uniform_over_the_trained_ones() -> None:
    how = draws(timesteps=range(100, 110))
    found = torch.tensor([how.timestep(example(step, 0)) for step in range(2000)])
    counts = torch.bincount(found - 100, minlength=10)
    assert counts.sum() == 2000
    assert len(counts) == 10
    chi_squared = ((counts - 200.0) ** 2 / 200).sum()
    assert chi_squared < 27.9, "0.1% point for 9 degrees of freedom"


def test_facts_of_the_samples_are_stacked_in_order() -> None:
    found = batch_of(
        example(3, 0, picture=0, weight=0.5, multiplier=0.7), example(3, 1, picture=1, keeps_prior=True, multiplier=0.7)
    )
    assert found.prompts == ["picture 0", "picture 1"]
    assert found.images == ["0.png", "1.png"]
    assert torch.equal(found.weight, torch.tensor([0.5, 1.0]))
    assert found.geometry.tolist() == [[48, 64, 1, 2, 46, 60]] * 2
    assert torch.equal(torch.as_tensor(found.keeps_prior), torch.tensor([False, True]))
    assert (found.multiplier, found.step, found.micro, found.epoch, found.global_size) == (0.7, 3, 1, 2, 6)


def test_pictures_without_a_mask_count_whole_beside_masked_ones() -> None:
    mask = torch.rand(1, 6, 8, generator=torch.Generator().manual_seed(0))
    found = batch_of(example(3, 0), example(3, 1, mask=mask), example(3, 2))
    assert torch.equal(found.mask, torch.stack([torch.ones(1, 6, 8), mask, torch.ones(1, 6, 8)]))
    assert batch_of(example(3, 0), example(3, 1)).mask is None


def test_cached_conditioning_is_used_where_every_sample_has_it() -> None:
    texts = [{"hidden": torch.full((5, 3), float(n)), "pooled": torch.full((2,), float(n))} for n in range(2)]
    found = batch_of(*(example(3, n, conditioning=text) for n, text in enumerate(texts)))
    assert {name: tuple(value.shape) for name, value in found.conditioning.items()} == {
        "hidden": (2, 5, 3),
        "pooled": (2, 2),
    }
    assert torch.equal(found.conditioning["pooled"][1], texts[1]["pooled"])
    assert batch_of(example(3, 0, conditioning=texts[0]), example(3, 1)).conditioning is None


def test_pixels_are_passed_on_and_encoded_to_the_same_batch() -> None:
    pixels = [torch.randn(3, 48, 64, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    raw = micro(*(example(3, n, picture=n, latents=None, pixels=pixels[n]) for n in range(2)))
    assert Collate(draws())(raw) is raw

    def encode(seen_BCHW: Tensor) -> LatentDistribution:
        assert torch.equal(seen_BCHW, torch.stack(pixels))
        vae = [distribution(n) for n in range(2)]
        return LatentDistribution(torch.stack([v.mean for v in vae]), torch.stack([v.std for v in vae]))

    found = encode_and_assemble(raw, encode, draws(), CPU)
    cached = batch_of(example(3, 0), example(3, 1, picture=1))
    for name in ("latents", "noise", "timesteps"):
        assert torch.equal(getattr(found, name), getattr(cached, name)), name


def test_a_picture_that_the_vae_cannot_encode_is_named() -> None:
    raw = micro(*(example(3, n, picture=n, latents=None, pixels=torch.zeros(3, 48, 64)) for n in range(3)))

    def encode(pixels_BCHW: Tensor) -> LatentDistribution:
        raise BrokenLatents([1])

    with pytest.raises(UserError, match=r"^1\.png: .*not finite") as caught:
        encode_and_assemble(raw, encode, draws(), CPU)
    assert caught.value.exit_code == Exit.BROKEN_VALUES


def test_half_precision_caches_draw_in_full_precision() -> None:
    half = LatentDistribution(distribution(0).mean.half(), distribution(0).std.half())
    found = assemble(micro(example(3, 0)), [half], draws()).latents
    assert found.dtype == torch.float32
    expected = half.mean.float() + half.std.float() * standard_normal("latents", 3, 0)
    assert torch.equal(found[0], expected)


def test_moving_a_batch_moves_all_its_tensors_and_keeps_the_rest() -> None:
    text = {"hidden": torch.zeros(5, 3)}
    found = batch_of(example(3, 0, conditioning=text, mask=torch.ones(1, 6, 8)))
    moved = found.to(torch.device("meta"))
    for name in ("latents", "noise", "corrupting_noise", "timesteps", "geometry", "weight", "mask"):
        assert getattr(moved, name).is_meta, name
        assert not getattr(found, name).is_meta, name
    assert moved.conditioning["hidden"].is_meta
    assert (moved.prompts, moved.images, moved.step) == (found.prompts, found.images, found.step)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU's driver")
def test_pinning_a_batch_pins_all_its_tensors() -> None:
    pinned = batch_of(example(3, 0, conditioning={"hidden": torch.zeros(5, 3)})).pin_memory()
    assert pinned.latents.is_pinned()
    assert pinned.conditioning["hidden"].is_pinned()


def test_a_pinned_batch_holds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor.clone())
    found = batch_of(example(3, 0, conditioning={"hidden": torch.ones(5, 3)}))
    pinned = found.pin_memory()
    assert isinstance(pinned, Batch)
    assert pinned.latents is not found.latents
    assert torch.equal(pinned.latents, found.latents)
    assert pinned.conditioning["hidden"] is not found.conditioning["hidden"]
    assert pinned.prompts == found.prompts


def test_filling_up_repeats_the_last_sample_without_weight() -> None:
    text = {"hidden": torch.randn(5, 3)}
    found = batch_of(
        example(3, 0, weight=0.5, conditioning=text, mask=torch.ones(1, 6, 8)), example(3, 1, conditioning=text)
    )
    longer = found.padded(4)
    for name, tensor in longer.tensors().items():
        assert len(tensor) == 4, name
        assert torch.equal(tensor[:2], found.tensors()[name]), name
        if name != "weight":
            assert torch.equal(tensor[2:], tensor[1:2].expand_as(tensor[2:])), name
    assert longer.weight.tolist() == [0.5, 1, 0, 0]
    assert (longer.images, longer.prompts, longer.global_size) == (found.images, found.prompts, 6)
    assert found.padded(2) is found and found.padded(1) is found


def test_every_tensor_has_a_name() -> None:
    found = replace(batch_of(example(3, 0, conditioning={"hidden": torch.zeros(5, 3)})), tokens={"ids": torch.zeros(1)})
    assert set(found.tensors()) == {
        "latents", "noise", "corrupting_noise", "timesteps", "geometry", "weight", "conditioning.hidden", "tokens.ids"
    }  # fmt: skip


def test_what_stays_on_the_cpu_needs_no_page_locking() -> None:
    tensor = torch.zeros(2)
    assert sendable(tensor, CPU) is tensor
    assert sendable(tensor.to("meta"), torch.device("cuda")).is_meta, "only what lies on the CPU is locked"


def test_what_goes_to_a_gpu_is_page_locked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor + 1)
    assert torch.equal(sendable(torch.zeros(2), torch.device("cuda")), torch.ones(2))
    monkeypatch.setattr(Tensor, "is_pinned", lambda tensor: True)
    assert torch.equal(sendable(torch.zeros(2), torch.device("cuda")), torch.zeros(2))
