from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import load_file

from library.core.errors import UserError
from library.models import random_weights
from library.models.published import recipe


def run(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["random_weights", *arguments])
    random_weights.main()


def test_the_command_writes_a_single_file(monkeypatch, tmp_path, load):
    out = tmp_path / "tiny.safetensors"
    run(monkeypatch, "--family", "sd15", "--tiny", "--format", "single_file", "--dtype", "fp16", "--out", str(out))
    assert {tensor.dtype for tensor in load_file(out).values()} == {torch.float16}
    assert load(out, torch.float16).encode_prompts(["a cat"])["hidden"].isfinite().all()


def test_a_single_file_needs_its_ending(monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"must end in \.safetensors"):
        run(monkeypatch, "--family", "sd15", "--tiny", "--format", "single_file", "--out", str(tmp_path / "tiny"))


def test_the_seed_decides_every_weight():
    made_of = recipe("sd15", tiny=True)

    def states(seed):
        modules = random_weights.random_modules(made_of, torch.float32, seed)
        return torch.cat([value.flatten() for module in modules.values() for value in module.state_dict().values()])

    assert torch.equal(states(1), states(1))
    assert not torch.equal(states(1), states(2))


@pytest.mark.parametrize(
    ("name", "millions"),
    # UNet, VAE and text encoders of the published models
    [("sd15", [859.5, 83.7, 123.1]), ("sd2", [865.9, 83.7, 340.4]), ("sdxl", [2567.5, 83.7, 123.1, 694.7])],
)
def test_full_sizes_are_those_of_the_published_models(name, millions):
    modules = random_weights.empty_modules(recipe(name)).values()
    sizes = [sum(parameter.numel() for parameter in module.parameters()) / 1e6 for module in modules]
    assert sizes == pytest.approx(millions, abs=0.06)
