"""What is imported with diffusers' classes, each time in a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import json, sys, torch
from library.models.diffusers_classes import UNUSED, import_model_classes
{before}
import_model_classes()
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.utils.import_utils import is_transformers_available
blocks = {{"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "mid_block_type": None}}
unet = UNet2DConditionModel(block_out_channels=[32], cross_attention_dim=8, layers_per_block=1, **blocks)
unet(torch.zeros(1, 4, 8, 8), torch.tensor([1]), encoder_hidden_states=torch.zeros(1, 2, 8))
print(json.dumps({{
    "config": UNet2DConditionModel.__module__,
    "parts": [name for name in ("bitsandbytes", "peft", "transformers.modeling_utils") if name in sys.modules],
    "transformers": is_transformers_available(),
}}))
"""


def imported(before: str = "") -> dict:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(before=before)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return json.loads(result.stdout.splitlines()[-1])


def test_neither_classes_nor_a_forward_pass_import_what_training_does_not_use() -> None:
    found = imported()
    assert found["config"] == "diffusers.models.unets.unet_2d_condition"
    assert found["parts"] == []
    assert found["transformers"], "what comes later finds every package that is installed"


@pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")
def test_who_has_imported_diffusers_before_keeps_all_of_it() -> None:
    assert "peft" in imported("import diffusers.models.unets.unet_2d_condition")["parts"]
