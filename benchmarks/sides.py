"""The two sides of a comparison: our training step, and a plain one as diffusers' examples write it.

Both train the same modules of the same model at the same rank, at batch sizes and latent sizes that are the same, with
cached latents and text. Ours goes through the entry script's own parts, up to the loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
"""What sd-scripts puts LoRA on: 192 modules of SD 1.5, 722 of SDXL."""


@dataclass(frozen=True)
class Workload:
    """What is trained."""

    model: Path
    pictures: Path
    output: Path
    resolution: int
    batch: int = 1
    rank: int = 32
    precision: str = "bf16"
    checkpointing: bool = False
    options: list[str] = field(default_factory=list)
    """Further words of the command line, for ours."""


@dataclass
class Parts:
    """Seconds of a step, by what they are spent on. On a GPU each part waits for the device, so use them for shares."""

    data: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    optimizer: float = 0.0


class Side(Protocol):
    """Something that can train a step."""

    def step(self) -> Parts:
        """One optimizer update."""
        ...

    def weights(self) -> Iterable[Tensor]:
        """The model's and the adapter's parameters."""
        ...


class Clock:
    """Seconds between calls, the device's work included."""

    def __init__(self, device: torch.device) -> None:
        self.wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
        self.last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last call."""
        self.wait()
        before, self.last = self.last, time.perf_counter()
        return self.last - before


class Ours:
    """`train_network.py` as far as the loop, and then its loop's body by hand."""

    def __init__(self, workload: Workload) -> None:
        from accelerate import Accelerator

        from library.config.load import load_config
        from library.models.load import load_model
        from library.training.data import build_data, cache_all, look_through
        from library.training.length import plan_length
        from library.training.loading import batches
        from library.training.run import start_run
        from library.training.trainer import build_trainer, captured_passes, trained_hosts
        from networks.build import build_network

        loaded = load_config(command_line(workload))
        run = start_run(loaded, loaded.config, Accelerator())
        datasets, pictures = look_through(run)
        model = load_model(run.config.model, run.dtype, run.device)
        data = build_data(run, datasets, pictures, model)
        length = plan_length(run, data.updates_per_epoch)
        data = cache_all(run, data, model)
        network = build_network(run.config.network, trained_hosts(run, model), model.family, run.seed)
        self.trainer = build_trainer(run, model, network, length)
        self.trainer.captured = captured_passes(run, self.trainer, data)
        self.trainer.network.train()
        self.modules = [*model.hosts(["unet"]).values(), network]
        self.batches = batches(run, data, model, length.span)
        self.done = 0

    def step(self) -> Parts:
        """The body of `library.training.loop.fit`."""
        trainer, clock = self.trainer, Clock(self.trainer.device)
        parts = Parts()
        batch = next(self.batches)
        assert batch is not None
        parts.data = clock.lap()
        trainer.set_learning_rates(self.done)
        trainer.accumulate(batch)
        parts.backward = clock.lap()  # forward and backward are one call
        trainer.reduce_gradients()
        trainer.update_weights(self.done, trainer.clip(), [batch])
        parts.optimizer = clock.lap()
        self.done += 1
        return parts

    def weights(self) -> Iterable[Tensor]:
        """The UNet's and the network's."""
        return [parameter for module in self.modules for parameter in module.parameters()]


class Reference:
    """diffusers' UNet, PEFT's LoRA, autocast and AdamW, put together as in diffusers' `train_text_to_image_lora.py`."""

    def __init__(self, workload: Workload) -> None:
        from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
        from diffusers.training_utils import cast_training_params
        from peft import LoraConfig

        from library.core.runtime import available_cores

        torch.manual_seed(0)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cpu":
            torch.set_num_threads(available_cores())
        self.dtype = DTYPES[workload.precision]
        self.unet = UNet2DConditionModel.from_pretrained(workload.model, subfolder="unet", torch_dtype=self.dtype)
        self.unet.requires_grad_(False).to(self.device)
        if workload.checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.unet.add_adapter(LoraConfig(r=workload.rank, lora_alpha=workload.rank, target_modules=TARGETS))
        if self.dtype != torch.float32:
            cast_training_params(self.unet, dtype=torch.float32)
        self.parameters = [each for each in self.unet.parameters() if each.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4)
        self.scheduler = DDPMScheduler.from_pretrained(workload.model, subfolder="scheduler")
        stride = 2 ** (len(AutoencoderKL.load_config(workload.model, subfolder="vae")["block_out_channels"]) - 1)
        self.inputs = Inputs(self.unet.config, stride, workload, self.device, self.dtype)
        self.unet.train()

    def step(self) -> Parts:
        """One iteration of the example's loop."""
        clock, parts = Clock(self.device), Parts()
        latents = self.inputs.latents
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, self.scheduler.config.num_train_timesteps, (len(latents),), device=self.device)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        parts.data = clock.lap()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            predicted = self.unet(noisy, timesteps, return_dict=False, **self.inputs.conditions)[0]
        loss = torch.nn.functional.mse_loss(predicted.float(), noise.float())
        parts.forward = clock.lap()
        loss.backward()
        parts.backward = clock.lap()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss.item()  # the example averages the loss for its log in every step
        parts.optimizer = clock.lap()
        return parts

    def weights(self) -> Iterable[Tensor]:
        """The UNet's, with the adapter's."""
        return self.unet.parameters()


class Inputs:
    """Random latents and text of the right shapes for the reference."""

    def __init__(self, config: Any, stride: int, workload: Workload, device: torch.device, dtype: torch.dtype) -> None:
        side = workload.resolution // stride

        def random(*shape: int) -> Tensor:
            return torch.randn(workload.batch, *shape, device=device, dtype=dtype)

        self.latents = random(config.in_channels, side, side)
        self.conditions: dict[str, Any] = {"encoder_hidden_states": random(77, config.cross_attention_dim)}
        if config.addition_embed_type == "text_time":
            size = float(workload.resolution)
            ids = torch.tensor([[size, size, 0.0, 0.0, size, size]] * workload.batch, device=device, dtype=dtype)
            pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            self.conditions["added_cond_kwargs"] = {"text_embeds": random(pooled), "time_ids": ids}


def command_line(workload: Workload) -> list[str]:
    """The run as words after `train_network.py`."""
    options: dict[str, Any] = {
        "pretrained_model_name_or_path": workload.model,
        "train_data_dir": workload.pictures,
        "resolution": workload.resolution,
        "train_batch_size": workload.batch,
        "max_train_steps": 1_000_000,
        "network_dim": workload.rank,
        "network_alpha": workload.rank,
        "network_train_unet_only": "true",
        "cache_latents_to_disk": "true",
        "cache_latents": "true",
        "cache_text_encoder_outputs": "true",
        "gradient_checkpointing": str(workload.checkpointing).lower(),
        "mixed_precision": workload.precision,
        "optimizer_type": "AdamW",
        "learning_rate": 1e-4,
        "seed": 0,
        "log_with": "none",
        "output_dir": workload.output,
    }
    return [*(word for key, value in options.items() for word in (f"--{key}", str(value))), *workload.options]


SIDES: dict[str, Callable[[Workload], Side]] = {"ours": Ours, "reference": Reference}


def peak_memory() -> int:
    """The highest memory of this process so far, in bytes: of the GPU where there is one, else resident (Linux)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource  # not on Windows

    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
