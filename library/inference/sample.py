"""Pictures from prompts, with the model that is being trained.

Letters: B pictures, C latent channels, h w latent size, H W picture size.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from library.data.pictures.placement import Geometry
from library.data.types import Conditioning
from library.inference.requests import SampleRequest
from library.inference.samplers import make_sampler
from library.models.base import DiffusionModel, Part
from networks.base import Network

ALL_PARTS: tuple[Part, ...] = ("unet", "vae", "text_encoders")


@torch.no_grad()
def generate(
    model: DiffusionModel,
    requests: Sequence[SampleRequest],
    networks: Sequence[Network] = (),
    batch_size: int = 1,
    keep: Sequence[Part] = ALL_PARTS,
) -> Iterator[Image.Image]:
    """One picture for each request, in their order.

    The noise of each comes from its own seed, on the CPU, so that it is the same on every device and in every batch.

    Args:
        networks: act without their dropouts, and are told of the timesteps; whether they are enabled is the caller's choice.
        batch_size: consecutive requests alike in size, steps and sampler are computed together.
        keep: parts that stay in memory; text encoders are dropped after all prompts are encoded, the others at the end.

    Raises:
        UserError: a sampler is not known.
    """
    released = [part for part in ALL_PARTS if part not in keep]
    try:
        encoded = [_encode(model, request) for request in requests]
        if "text_encoders" in released:
            released.remove("text_encoders")
            model.release("text_encoders")
        with _without_dropout(networks):
            for batch in _batches(list(zip(requests, encoded)), batch_size):
                latents_BChw = denoise(model, [request for request, _ in batch], [each for _, each in batch], networks)
                yield from map(to_image, model.decode_latents(latents_BChw))
    finally:
        for part in released:
            model.release(part)


@torch.no_grad()
def denoise(
    model: DiffusionModel,
    requests: Sequence[SampleRequest],
    encoded: Sequence[Conditioning],
    networks: Sequence[Network] = (),
) -> Tensor:
    """Scaled latents (B, C, h, w), fp32, of requests that are alike in size, steps, sampler and use of guidance.

    Args:
        encoded: for each request the conditioning of its prompt, (1, ...), or of negative prompt and prompt, (2, ...).
    """
    first, guided = requests[0], _is_guided(requests[0])
    sampler = make_sampler(first.sampler, model.process)
    conditioning = _stacked(encoded)
    device = conditioning["hidden"].device
    generators = [torch.Generator().manual_seed(request.seed) for request in requests]
    sampler.set_timesteps(first.steps, device=device)
    latents_BChw = _initial_noise(model, first, generators).to(device) * sampler.init_noise_sigma
    scale_B111 = torch.tensor([request.scale for request in requests], device=device).reshape(-1, 1, 1, 1)
    geometry_B6 = _geometry(first).to(device).expand(len(conditioning["hidden"]), -1)
    for t in sampler.timesteps:
        input_BChw = sampler.scale_model_input(latents_BChw, t)
        input_BChw = torch.cat([input_BChw, input_BChw]) if guided else input_BChw
        t_B = t.expand(len(input_BChw))
        for network in networks:
            network.set_timestep(t_B)
        predicted = model.predict(input_BChw, t_B, conditioning, geometry_B6).float()
        if guided:
            unconditional, conditional = predicted.chunk(2)
            predicted = guide(unconditional, conditional, scale_B111)
        latents_BChw = sampler.step(predicted, t, latents_BChw, **_randomness(sampler, generators)).prev_sample
    return latents_BChw


def guide(unconditional_BChw: Tensor, conditional_BChw: Tensor, scale_B111: Tensor) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6, with the scale counted from 1)."""
    return unconditional_BChw + scale_B111 * (conditional_BChw - unconditional_BChw)


def to_image(pixels_CHW: Tensor) -> Image.Image:
    """A picture (3, H, W) in [-1, 1] as an 8-bit image."""
    bytes_HWC = ((pixels_CHW.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(bytes_HWC.cpu().numpy())


def _encode(model: DiffusionModel, request: SampleRequest) -> Conditioning:
    prompts = [request.negative_prompt, request.prompt] if _is_guided(request) else [request.prompt]
    return model.encode_prompts(prompts)


def _is_guided(request: SampleRequest) -> bool:
    return request.scale > 1


def _batches(pairs: Iterable[tuple[SampleRequest, Any]], batch_size: int) -> Iterator[list[tuple[SampleRequest, Any]]]:
    """Runs of like requests, at most `batch_size` together."""

    def likeness(pair: tuple[SampleRequest, Any]) -> tuple:
        request = pair[0]
        return request.width, request.height, request.steps, request.sampler, _is_guided(request)

    for _, run in groupby(pairs, key=likeness):
        alike = list(run)
        yield from (alike[first : first + batch_size] for first in range(0, len(alike), batch_size))


def _stacked(encoded: Sequence[Conditioning]) -> Conditioning:
    """All negative prompts, then all prompts."""
    return {
        name: torch.cat([each[name][row : row + 1] for row in range(len(encoded[0][name])) for each in encoded])
        for name in encoded[0]
    }


def _initial_noise(model: DiffusionModel, request: SampleRequest, generators: Sequence[torch.Generator]) -> Tensor:
    """(B, C, h, w), each sample from its own generator."""
    stride = model.latents.stride
    shape = (1, model.latents.channels, request.height // stride, request.width // stride)
    return torch.cat([torch.randn(shape, generator=generator) for generator in generators])


def _geometry(request: SampleRequest) -> Tensor:
    """SDXL's size conditioning of a picture that is neither scaled nor cropped, (1, 6)."""
    size = (request.height, request.width)
    return torch.tensor([Geometry(size, (0, 0), size).values()], dtype=torch.float32)


def _randomness(sampler: Any, generators: list[torch.Generator]) -> dict[str, Any]:
    """The generators, for samplers that add noise as they go."""
    takes = "generator" in inspect.signature(sampler.step).parameters
    return {"generator": generators if len(generators) > 1 else generators[0]} if takes else {}


@contextmanager
def _without_dropout(networks: Sequence[Network]) -> Iterator[None]:
    training = [network for network in networks if getattr(network, "training", False)]
    for network in networks:
        network.train(False)
    try:
        yield
    finally:
        for network in training:
            network.train(True)
