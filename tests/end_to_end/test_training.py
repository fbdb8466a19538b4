"""The entry point on every family and with the options that change what a step does."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from library.core.errors import UserError

PIPELINES = {
    "sd15": diffusers.StableDiffusionPipeline,
    "sd2": diffusers.StableDiffusionPipeline,
    "sd2_v": diffusers.StableDiffusionPipeline,
    "sdxl": diffusers.StableDiffusionXLPipeline,
}


@pytest.mark.parametrize("layout", ["folder", "single_file"])
@pytest.mark.parametrize("family", ["sd15", "sd2", "sd2_v", "sdxl"])
def test_every_family_trains_and_loads_in_diffusers(
    family: str, layout: str, train, models: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Text encoders and convolutions included; nothing of the file is left over, and the LoRA changes the pictures."""
    out = train(
        pretrained_model_name_or_path=models(family, layout),
        v_parameterization=True if family == "sd2_v" and layout == "single_file" else None,
        network_args=["conv_dim=4", "conv_alpha=2"],
        max_train_steps=3,
        train_batch_size=4,
    )
    pipe = PIPELINES[family].from_pretrained(models(family), safety_checker=None)
    pipe.set_progress_bar_config(disable=True)

    def picture() -> torch.Tensor:
        made = pipe("hero", num_inference_steps=2, height=64, width=64, generator=torch.Generator().manual_seed(0))
        return torch.tensor(list(made.images[0].convert("RGB").tobytes()), dtype=torch.float32)

    before = picture()
    with caplog.at_level(logging.WARNING):
        pipe.load_lora_weights(str(out), weight_name="lora.safetensors")
    assert not [
        record.message for record in caplog.records if "not found" in record.message or "nexpected" in record.message
    ]
    assert not torch.equal(before, picture())


def test_a_run_leaves_what_it_promises(train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("hero, man --d 1 --s 2\nman --d 2 --s 2", encoding="utf-8")
    out = train(
        max_train_epochs=2, save_every_n_epochs=1, save_state=True, save_every_n_steps=3, sample_prompts=prompts,
        sample_every_n_epochs=1, sample_at_first=True, trigger_word="hero", validation_split=0.2, cache_latents=True,
    )  # fmt: skip
    assert {path.name for path in out.iterdir()} >= {
        "lora.safetensors", "lora.json", "lora.preview.png", "lora.before_after.png", "lora.config.toml", "sample", "logs",
        "lora-000001.safetensors", "lora-000001-state", "lora-step00000003.safetensors", "lora-state",
    }  # fmt: skip
    assert not list(out.rglob("*.tmp"))
    first = sorted(path.name.split("_")[1] for path in (out / "sample").iterdir())
    assert first == ["000000"] * 2 + ["e000001"] * 2 + ["e000002"] * 2
    with safe_open(out / "lora.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["ss_base_model_version"] == "sd_v1" and metadata["modelspec.trigger_phrase"] == "hero"
    card = json.loads((out / "lora.json").read_text(encoding="utf-8"))
    assert card["activation text"] == "hero" and " steps on " in card["notes"] and "/" not in card["notes"]
    said = capsys.readouterr().out
    for promise in ("lora.safetensors", "ComfyUI", "A1111", "load_lora_weights", "validation loss", "hero"):
        assert promise in said


def test_the_resolved_config_reproduces_the_run(train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import train_network

    out = train(max_train_steps=2, seed=None)
    argv = ["train_network.py", "--config", str(out / "lora.config.toml"), "--output_dir", str(tmp_path / "again")]
    monkeypatch.setattr("sys.argv", argv)
    train_network.main()
    first, second = load_file(out / "lora.safetensors"), load_file(tmp_path / "again" / "lora.safetensors")
    assert all(torch.equal(value, second[name]) for name, value in first.items())


OPTIONS = {
    "fp16": {"mixed_precision": "fp16", "save_precision": "fp16"},
    "bf16": {"mixed_precision": "bf16", "gradient_checkpointing": True, "full_bf16": None},
    "alpha_mask": {"alpha_mask": True},
    "weights": {"min_snr_gamma": 5, "loss_type": "huber", "noise_offset": 0.05, "scale_weight_norms": 0.05},
    "multires": {"multires_noise_iterations": 4, "min_timestep": 100, "max_timestep": 900, "debiased_estimation_loss": True},
    "text_only": {"network_train_text_encoder_only": True},
    "no_unet": {"unet_lr": 0},
    "no_text": {"text_encoder_lr": 0, "cache_text_encoder_outputs": True},
    "rates": {"unet_lr": 1e-3, "text_encoder_lr": 1e-4, "network_args": ["loraplus_lr_ratio=4"], "clip_skip": 2},
    "long_prompts": {"max_token_length": 150, "weighted_captions": True},
    "adafactor": {"optimizer_type": "AdaFactor", "optimizer_args": ["relative_step=False", "scale_parameter=False"]},
    "accumulated": {"gradient_accumulation_steps": 3},
}  # fmt: skip


@pytest.mark.parametrize("case", OPTIONS)
def test_options_train(case: str, train) -> None:
    tensors = load_file(train(max_train_steps=2, **OPTIONS[case]) / "lora.safetensors")
    assert all(torch.isfinite(value.float()).all() for value in tensors.values())
    assert any(value.abs().max() > 0 for name, value in tensors.items() if "lora_up" in name)
    if case == "fp16":
        assert all(value.dtype == torch.float16 for name, value in tensors.items() if "weight" in name)
    if case in ("text_only", "no_unet"):
        assert all(name.startswith("lora_te") for name in tensors)
    if case == "no_text":
        assert all(name.startswith("lora_unet") for name in tensors)


def test_regularisation_and_dataset_config(train, pictures: Path, tmp_path: Path) -> None:
    regularisation = tmp_path / "man"
    regularisation.mkdir()
    for index in range(3):
        Image.new("RGB", (64, 64), (90, 60 * index, 10)).save(regularisation / f"{index}.png")
    config = tmp_path / "data.toml"
    config.write_text(
        f"""
[general]
enable_bucket = true
bucket_reso_steps = 16
min_bucket_reso = 32
caption_extension = ".txt"
[[datasets]]
resolution = 64
batch_size = 2
[[datasets.subsets]]
image_dir = {(pictures / "1_hero man").as_posix()!r}
num_repeats = 2
[[datasets.subsets]]
image_dir = {regularisation.as_posix()!r}
is_reg = true
class_tokens = "man"
""",
        encoding="utf-8",
    )
    out = train(
        train_data_dir=None, dataset_config=config, enable_bucket=None, min_bucket_reso=None, bucket_reso_steps=None
    )
    with safe_open(out / "lora.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["ss_num_train_images"] == metadata["ss_num_reg_images"] == "12"


def test_base_weights_and_network_weights(train) -> None:
    """A LoRA continues from a file, and trains on top of one that is merged into the model."""
    first = train("first") / "lora.safetensors"
    continued = load_file(
        train("continued", network_weights=first, dim_from_weights=True, max_train_steps=1) / "lora.safetensors"
    )
    assert continued.keys() == load_file(first).keys()
    merged = train("merged", base_weights=first, base_weights_multiplier=0.5, max_train_steps=2, cache_latents=True)
    plain = train("plain", max_train_steps=2, cache_latents=True)
    one, other = load_file(merged / "lora.safetensors"), load_file(plain / "lora.safetensors")
    assert any(not torch.equal(value, other[name]) for name, value in one.items())


def test_a_broken_gradient_stops_before_it_changes_a_weight(train, monkeypatch: pytest.MonkeyPatch) -> None:
    from library.training.objective import Objective

    honest = Objective.__call__

    def broken(self: Objective, batch, *rest):
        losses = honest(self, batch, *rest)
        return losses * float("nan") if batch.step == 2 else losses

    monkeypatch.setattr(Objective, "__call__", broken)
    with pytest.raises(
        UserError, match=r"step 3; it changed no weight.*\.png at timestep \d+.*[Ll]earning rate"
    ) as caught:
        train(max_train_steps=5, save_every_n_steps=2)
    assert caught.value.exit_code == 3


def test_sampling_that_fails_never_ends_a_run(train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("hero --s 2", encoding="utf-8")

    def out_of_memory(*arguments: object, **named: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("library.training.observers.generate", out_of_memory)
    out = train(sample_prompts=prompts, sample_at_first=True, max_train_steps=1)
    assert (out / "lora.safetensors").is_file() and "training goes on" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network_args": ["conv_dmi=4"]}, "Did you mean 'conv_dim'"),
        ({"optimizer_type": "AdamV"}, "AdamW"),
        ({"v2": True}, "v2"),
        ({"learning_rate": 0}, "nothing would be trained"),
        ({"attention": "xformers"}, "xformers"),
    ],
)
def test_mistakes_are_told(options: dict[str, object], message: str, train) -> None:
    with pytest.raises(UserError, match=message):
        train(max_train_steps=1, **options)
