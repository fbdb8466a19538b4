"""Our pictures against those of diffusers' pipelines for the same model, noise and scheduler."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import nn

from library.core.errors import UserError
from library.inference.requests import SampleRequest
from library.inference.sample import generate
from library.inference.samplers import SAMPLERS, betas_of, make_sampler

REQUEST = SampleRequest(
    "a cat, best quality", "blurry", width=32, height=24, seed=5, steps=4, scale=5.0, sampler="ddim"
)


@pytest.fixture(scope="module")
def pipeline(folder):
    pipelines = {}

    def of(family):
        if family not in pipelines:
            kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
            pipelines[family] = kind.from_pretrained(folder(family), local_files_only=True)
            pipelines[family].set_progress_bar_config(disable=True)
        return pipelines[family]

    return of


def drawn_by_diffusers(pipe, request: SampleRequest, scheduler) -> np.ndarray:
    pipe.scheduler = scheduler
    generator = torch.Generator().manual_seed(request.seed)
    return np.asarray(
        pipe(
            request.prompt,
            negative_prompt=request.negative_prompt,
            width=request.width,
            height=request.height,
            num_inference_steps=request.steps,
            guidance_scale=request.scale,
            generator=generator,
        ).images[0]
    ).astype(int)


def drawn(model, *requests: SampleRequest, **settings) -> list[np.ndarray]:
    return [np.asarray(image).astype(int) for image in generate(model, requests, **settings)]


def assert_same_picture(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    assert ours.std() > 1
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("scale", [1.0, 5.0])
@pytest.mark.parametrize("family", ["sd15", "sd2_v", "sdxl"])
def test_the_picture_of_diffusers_with_its_own_scheduler(folder, load, pipeline, family, scale):
    request = replace(REQUEST, scale=scale)
    own = DDIMScheduler.from_pretrained(folder(family), subfolder="scheduler")
    (ours,) = drawn(load(family), request)
    assert_same_picture(ours, drawn_by_diffusers(pipeline(family), request, own))


def test_the_picture_of_diffusers_under_a_zero_terminal_snr(folder, load, pipeline):
    own = DDIMScheduler.from_pretrained(
        folder("sd2_v"), subfolder="scheduler", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    (ours,) = drawn(load("sd2_v", zero_terminal_snr=True), REQUEST)
    assert_same_picture(ours, drawn_by_diffusers(pipeline("sd2_v"), REQUEST, own))


@pytest.mark.parametrize("name", sorted({value[0]: name for name, value in SAMPLERS.items()}.values()))
def test_every_sampler_draws_as_the_pipeline_does(load, pipeline, name):
    if "LMS" in SAMPLERS[name][0]:
        pytest.importorskip("scipy")
    model = load("sd15")
    request = replace(REQUEST, sampler=name)
    (ours,) = drawn(model, request)
    assert_same_picture(ours, drawn_by_diffusers(pipeline("sd15"), request, make_sampler(name, model.process)))


@pytest.mark.parametrize("name", ["ddim", "euler", "euler_a", "dpmsolver++"])
def test_samplers_survive_a_zero_terminal_snr(load, name):
    (picture,) = drawn(load("sd2_v", zero_terminal_snr=True), replace(REQUEST, sampler=name))
    assert picture.std() > 1


def test_a_sampler_that_lacks_its_package_says_so(load, monkeypatch):
    monkeypatch.setattr("library.inference.samplers.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install scipy"):
        make_sampler("lms", load("sd15").process)
    with pytest.raises(UserError, match="'dim' is not known"):
        make_sampler("dim", load("sd15").process)


@pytest.mark.parametrize("family", ["sd15", "sd2_v"])
def test_the_betas_come_back_from_the_process(folder, load, family):
    theirs = DDIMScheduler.from_pretrained(folder(family), subfolder="scheduler").betas
    torch.testing.assert_close(betas_of(load(family).process).float(), theirs, rtol=1e-4, atol=0)


def test_a_picture_depends_on_its_seed_and_not_on_the_batch(load):
    model = load("sd15")
    requests = [
        replace(REQUEST, seed=seed, sampler="euler_a", scale=scale) for seed, scale in ((1, 3.0), (2, 7.0), (3, 7.0))
    ]
    alone = drawn(model, *requests)
    together = drawn(model, *requests, batch_size=2)
    for one, other in zip(alone, together):
        assert np.abs(one - other).max() <= 1
    assert np.abs(alone[0] - alone[1]).max() > 1
    (again,) = drawn(model, requests[1])
    assert np.array_equal(again, alone[1])


def test_requests_of_unlike_sizes_come_back_in_order(load):
    requests = [replace(REQUEST, width=width) for width in (32, 16, 16, 32)]
    assert [picture.shape for picture in drawn(load("sd15"), *requests, batch_size=4)] == [
        (24, request.width, 3) for request in requests
    ]


class SpyNetwork(nn.Module):
    """Stands for a network: notes what it is told."""

    def __init__(self):
        super().__init__()
        self.timesteps = []
        self.modes = []

    def set_timestep(self, t_B):
        self.timesteps.append(t_B.tolist())
        self.modes.append(self.training)

    def enabled(self, on):
        return nullcontext()


def test_every_network_hears_timesteps_and_rests_its_dropouts(load):
    networks = [SpyNetwork(), SpyNetwork()]
    drawn(load("sd15"), replace(REQUEST, steps=2), networks=networks)
    for network in networks:
        assert network.timesteps == [[501, 501], [1, 1]]
        assert network.modes == [False, False]
        assert network.training


def test_parts_are_released_as_soon_as_they_are_done_with(load, monkeypatch):
    model = load("sd15")
    events = []
    monkeypatch.setattr(model, "release", lambda part: events.append(f"release {part}"))
    decode = model.decode_latents
    monkeypatch.setattr(model, "decode_latents", lambda latents: events.append("decode") or decode(latents))
    drawn(model, REQUEST, REQUEST, keep=["unet"])
    assert events == ["release text_encoders", "decode", "decode", "release vae"]


def test_no_gradient_is_kept(load):
    model = load("sd15")
    model.hosts(["unet"])["unet"].conv_in.weight.requires_grad_(True)
    next(generate(model, [REQUEST]))
    assert model.hosts(["unet"])["unet"].conv_in.weight.grad is None
    assert torch.is_grad_enabled()
