"""A run that is stopped at a step boundary and resumed ends with bitwise the same file as one that was not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from library.core.errors import UserError

STEPS = 9


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "lora.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    assert any(value.abs().max() > 0 for name, value in first.items() if "lora_up" in name), "nothing was learned"
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


CASES = {
    "adamw": {},
    "accumulation": {"gradient_accumulation_steps": 4, "train_batch_size": 1},
    "cached": {"cache_latents": True, "network_train_unet_only": True, "cache_text_encoder_outputs": True},
    "workers": {"max_data_loader_n_workers": 2, "cache_latents_to_disk": True},
    "8bit": {"optimizer_type": "AdamW8bit", "network_dim": 32},
    "schedule-free": {"optimizer_type": "AdamWScheduleFree"},
    "prodigy": {"optimizer_type": "Prodigy", "learning_rate": 1.0, "mixed_precision": "bf16"},
    "average": {"ema_decay": 0.9, "network_dropout": 0.3, "gradient_checkpointing": True},
    "prior": {"prior_prediction_rate": 0.5, "trigger_word": "hero", "class_word": "man"},
    "noises": {
        "noise_offset": 0.1,
        "ip_noise_gamma": 0.1,
        "shuffle_caption": True,
        "random_crop": True,
        "color_aug": True,
    },
}


@pytest.mark.parametrize("case", CASES)
def test_resumed_equals_uninterrupted(train, case: str) -> None:
    """From a state in the middle of an epoch, and from one that the resumed run left at the end of the next."""
    options = {
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 0.2,
        "max_train_steps": STEPS,
        "save_state": True,
        **CASES[case],
    }
    whole = train("whole", **options, save_every_n_steps=2)
    resumed = train("resumed", **options, save_every_n_steps=5, resume=whole / "lora-step00000002-state")
    assert_same_weights(whole, resumed)
    twice = train("twice", **options, resume=resumed / "lora-step00000005-state")
    assert_same_weights(whole, twice)


def test_longer_run_under_a_schedule_without_length(train) -> None:
    whole = train("whole", max_train_steps=STEPS, lr_scheduler="constant_with_warmup", lr_warmup_steps=2)
    train("start", max_train_steps=4, lr_scheduler="constant_with_warmup", lr_warmup_steps=2, save_state=True)
    state = whole.parent / "start" / "lora-state"
    longer = train(
        "longer", max_train_steps=STEPS, lr_scheduler="constant_with_warmup", lr_warmup_steps=2, resume=state
    )
    assert_same_weights(whole, longer)


def test_longer_run_keeps_the_old_curve_and_says_so(train, capsys: pytest.CaptureFixture[str]) -> None:
    out = train("run", max_train_steps=4, lr_scheduler="cosine", save_state=True)
    before = tensors(out)
    train("run", max_train_steps=6, lr_scheduler="cosine", resume="latest")
    assert "keeps the curve of 4 steps" in capsys.readouterr().out
    for name, value in tensors(out).items():
        assert torch.equal(value, before[name]), "a cosine that has ended leaves the weights alone"
    train("run2", max_train_steps=6, lr_scheduler="cosine", resume=out / "lora-state", resume_with_new_schedule=True)
    assert "now follows the curve of 6 steps" in capsys.readouterr().out
    assert any(not torch.equal(value, before[name]) for name, value in tensors(out.parent / "run2").items())


def test_latest_passes_over_a_torn_state(train, capsys: pytest.CaptureFixture[str]) -> None:
    out = train("run", max_train_steps=6, save_every_n_steps=2, save_state=True)
    (out / "lora-state" / "network.safetensors").write_bytes(b"torn")
    train("run", max_train_steps=6, save_state=True, resume="latest")
    assert "resuming from" in (said := capsys.readouterr().out) and "lora-step00000004-state" in said


def test_latest_without_a_state_starts_anew(train) -> None:
    assert (train("run", max_train_steps=1, resume="latest") / "lora.safetensors").is_file()


def test_another_network_cannot_be_resumed(train) -> None:
    out = train("run", max_train_steps=2, save_state=True)
    with pytest.raises(UserError, match="network_dim was 4 and is now 8"):
        train("run", max_train_steps=4, network_dim=8, resume=out / "lora-state")
    with pytest.raises(UserError, match="nothing is left to train"):
        train("run", max_train_steps=2, resume=out / "lora-state")
