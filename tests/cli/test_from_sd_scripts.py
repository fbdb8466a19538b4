from __future__ import annotations

from pathlib import Path

import pytest

from library.cli.main import main
from library.core.errors import Exit

COMMAND = (
    'accelerate launch --mixed_precision bf16 sdxl_train_network.py --pretrained_model_name_or_path="C:\\m\\xl.safetensors" '
    "--train_data_dir pics --network_dim=16 --network_alpha=8 --unet_lr=1e-4 --network_train_unet_only --lr_warmup_steps=100 "
    "--optimizer_type=AdamW8bit --max_train_epochs=10 --save_every_n_epochs=2 --mixed_precision=bf16 --wandb_run_name=x --cache_latents"
)


def test_a_command_line_is_told_and_printed_as_a_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["from-sd-scripts", COMMAND]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for part in (
        "networks.lora, rank 16, alpha 8 (scale 0.5); in UNet",
        "AdamW8bit, 0.0001 in the UNet; constant, warm-up 100 steps",
        "10 epochs",
        "and one every 2 epochs",
        "latents cached",
        "'wandb_run_name' has no effect",
        'pretrained_model_name_or_path = "C:\\\\m\\\\xl.safetensors"',
        "accelerate launch --mixed_precision bf16 train_network.py --config my_preset.toml",
    ):
        assert part in said, part


def test_a_preset_is_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new.toml"
    assert main(["from-sd-scripts", COMMAND, "--out", str(out)]) == 0
    assert "[network]\n# Rank of the LoRA matrices.\nnetwork_dim = 16\n" in out.read_text(encoding="utf-8")
    before = out.read_bytes()
    assert main(["from-sd-scripts", COMMAND, "--out", str(out)]) == 2
    assert main(["from-sd-scripts", COMMAND, "--out", str(tmp_path / "new.json")]) == 2
    assert out.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    assert "is there already" in capsys.readouterr().err


def test_a_source_of_no_use_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["from-sd-scripts", "nowhere.toml"]) == 2
    assert "no such file" in capsys.readouterr().err


def test_what_cannot_run_is_told_and_gives_a_status_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    start = "accelerate launch train_network.py --pretrained_model_name_or_path=a.safetensors --train_data_dir=/x "
    status = main(
        [
            "from-sd-scripts",
            start + "--network_module=networks.lora --network_args conv_dims=4 --network_weights=gone.safetensors",
        ]
    )
    assert status == Exit.MISTAKE
    assert "unknown option 'conv_dims'. Did you mean 'conv_dim'?" in " ".join(capsys.readouterr().out.split())
    assert main(["from-sd-scripts", start + "--network_module=networks.loraa"]) == Exit.MISTAKE
    assert "networks.loraa" in capsys.readouterr().out
    assert main(["from-sd-scripts", start + "--network_module=networks.lora --network_args conv_dim=4"]) == 0
