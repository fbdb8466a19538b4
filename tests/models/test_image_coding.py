"""Overflow in half precision and in single, with a real VAE whose first weights are made large."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from library.core.errors import Exit, UserError
from library.data.types import BrokenLatents
from library.models.checkpoint import read_folder
from library.models.image_coding import ImageCoder

OVERFLOWS_FP16 = 5e3
"""Each weight of the first convolution: 27 of them make 135,000 of a white picture; fp16 ends at 65,504."""
OVERFLOWS_FP32 = 1e38

Coder = Callable[..., ImageCoder]


@pytest.fixture
def coder(tiny, tmp_path: Path) -> Coder:
    """`coder(weight, dtype)`: the tiny VAE with that first weight."""

    def make(weight: float, dtype: torch.dtype) -> ImageCoder:
        folder = tmp_path / f"{weight}"
        if not folder.exists():
            shutil.copytree(tiny("sd15", "folder"), folder)
            (file,) = (folder / "vae").glob("*.safetensors")
            tensors = load_file(file)
            tensors["encoder.conv_in.weight"] = torch.full_like(tensors["encoder.conv_in.weight"], weight)
            save_file(tensors, file)
        return ImageCoder(read_folder(folder).component("vae"), dtype, torch.device("cpu"))

    return make


def pictures(*levels: float) -> Tensor:
    """(B, 3, 16, 16), each of one level in [-1, 1] with a little noise."""
    noise = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) / 100
    return torch.stack([level + noise for level in levels])


def test_only_pictures_that_overflow_are_encoded_again_in_fp32(coder: Coder, caplog: pytest.LogCaptureFixture) -> None:
    half, exact = coder(OVERFLOWS_FP16, torch.float16), coder(OVERFLOWS_FP16, torch.float32)
    pixels = pictures(0.1, 0.9, -0.2, -0.9)
    with caplog.at_level(logging.WARNING):
        latents = half.encode(pixels)
        half.encode(pixels)
    assert sum("overflows in float16" in record.message for record in caplog.records) == 1
    assert not half.vae().encode(pixels.half()).latent_dist.mean[[1, 3]].isfinite().any()
    expected = exact.encode(pixels)
    torch.testing.assert_close(latents.mean[[1, 3]], expected.mean[[1, 3]])
    torch.testing.assert_close(latents.mean, expected.mean, rtol=0.05, atol=0.05)
    assert not torch.allclose(latents.mean[[0, 2]], expected.mean[[0, 2]], rtol=1e-6)  # these stayed in fp16
    assert latents.std.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_pictures_that_overflow_in_fp32_too_are_told_by_their_places(coder: Coder, dtype: torch.dtype) -> None:
    broken = coder(OVERFLOWS_FP32, dtype)
    grey = torch.zeros(1, 3, 16, 16)
    with pytest.raises(BrokenLatents) as caught:
        broken.encode(torch.cat([pictures(0.9), grey, pictures(0.9)]))
    assert caught.value.places == [0, 2]
    assert broken.encode(grey).mean.isfinite().all()
    told = caught.value.told_of(["a.png", "b.png", "c.png"])
    assert isinstance(told, UserError) and told.exit_code == Exit.BROKEN_VALUES
    assert str(told).startswith("a.png, c.png: ") and "b.png" not in str(told)


def test_a_damaged_vae_is_told(coder: Coder) -> None:
    broken = coder(float("nan"), torch.float32)
    with pytest.raises(BrokenLatents) as caught:
        broken.encode(pictures(0.0, 0.5))
    assert caught.value.places == [0, 1]


def test_a_vae_that_cannot_decode_is_told(coder: Coder) -> None:
    whole = coder(1.0, torch.float32)
    whole.vae().decoder.conv_in.weight.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="file is damaged"):
        whole.decode(torch.zeros(1, 4, 4, 4))
