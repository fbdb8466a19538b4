"""The demo model is a real one: it loads as any Stable Diffusion, and captions control what it draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

from library.demo.autoencoder import encode_all, to_pixels
from library.demo.drawing import draw
from library.demo.examples import examples
from library.demo.judge import TRIALS, accuracy
from library.demo.look import random_look
from library.demo.sheets import HELD_OUT_SEED, load_pipeline, sample

DEMO = Path(__file__).parents[2] / "demo"

# Below what the model reaches (see docs/demo_model.md), and far above chance.
FLOORS = {
    "framing": 0.95,
    "pose": 0.9,
    "hair_style": 0.85,
    "hair_colour": 0.9,
    "skin": 0.9,
    "outfit": 0.8,
    "outfit_colour": 0.9,
    "background": 0.7,
}


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return load_pipeline(DEMO / "model")


def test_it_is_small_and_stored_in_half_precision():
    kept = [path for path in DEMO.rglob("*") if path.is_file() and "work" not in path.relative_to(DEMO).parts]
    assert sum(path.stat().st_size for path in kept) < 25e6
    for path in (DEMO / "model").rglob("*.safetensors"):
        with safe_open(path, framework="pt") as weights:
            assert {weights.get_slice(key).get_dtype() for key in weights.keys()}  # noqa: SIM118 (safe_open iterates no other way) == {"F16"}, path


def test_it_is_a_stable_diffusion_pipeline(pipeline):
    assert pipeline.vae_scale_factor == 4
    assert pipeline.scheduler.config.prediction_type == "epsilon"
    assert pipeline.unet.config.cross_attention_dim == pipeline.text_encoder.config.hidden_size
    assert len(pipeline.tokenizer) == pipeline.text_encoder.config.vocab_size
    picture = pipeline("fighter, portrait", num_inference_steps=2, height=64, width=64).images[0]
    assert picture.size == (64, 64)


def test_the_autoencoder_rebuilds_unseen_pictures_and_its_latents_have_unit_deviation(pipeline):
    held_out = np.stack([np.asarray(draw(random_look(HELD_OUT_SEED + index))) for index in range(48)])
    means, deviations = encode_all(pipeline.vae, held_out)
    variance = means.var() + deviations.square().mean()
    assert variance.sqrt().item() * pipeline.vae.config.scaling_factor == pytest.approx(1.0, abs=0.05)
    assert _rebuilding_error(pipeline, held_out) < 0.06
    character = np.stack([np.asarray(draw(e.look)) for e in examples() if "alexander" in e.path.stem])
    assert _rebuilding_error(pipeline, character) < 0.09


@torch.no_grad()
def _rebuilding_error(pipeline: StableDiffusionPipeline, pictures: np.ndarray) -> float:
    pixels_BCHW = to_pixels(pictures)
    rebuilt_BCHW = pipeline.vae.decode(pipeline.vae.encode(pixels_BCHW).latent_dist.mean).sample
    return (rebuilt_BCHW - pixels_BCHW).abs().mean().item()


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.attribute)
def test_captions_control_what_is_drawn(pipeline, trial):
    rounds = -(-16 // len(trial.values))
    assert accuracy(trial, pipeline, rounds) >= FLOORS[trial.attribute]


def test_an_unknown_name_changes_little(pipeline):
    texts = ["fighter, full body, spiky hair, red hair, blue gi, black belt, standing, dojo background"] * 6
    plain = sample(pipeline, texts, seed=5, steps=12)
    named = sample(pipeline, [f"alexander, {text}" for text in texts], seed=5, steps=12)
    other = sample(pipeline, [text.replace("red hair", "green hair") for text in texts], seed=5, steps=12)
    assert _distance(plain, named) < _distance(plain, other)


def _distance(pictures, others) -> float:
    return float(
        np.mean(
            [np.abs(np.asarray(a, float) - np.asarray(b, float)).mean() for a, b in zip(pictures, others, strict=True)]
        )
    )
