"""How the network is trained: length, optimizer, schedule, loss, noise, validation, precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from library.config.schema.fields import named_in, option, parse_arguments, parse_duration, parse_numbers, parse_steps
from library.core.registry import LOSS_WEIGHTINGS, OPTIMIZERS, SCHEDULES


@dataclass(frozen=True)
class TrainingConfig:
    """Length of the run, seed and precision."""

    max_train_steps: int = option(1600, minimum=1)
    """Optimizer updates."""
    max_train_epochs: int | None = option(None, minimum=1, zero_is_unset=True)
    """Epochs; overrides max_train_steps."""
    max_train_time: float | None = option(None, parse=parse_duration, zero_is_unset=True)
    """Stop when this long has passed since the start, early enough to save the state before: "7h30m", "90m", "01:30:00", or
    seconds. The exit status is then 6, and `resume = "latest"` continues."""
    gradient_accumulation_steps: int = option(1, minimum=1)
    """Batches summed into one optimizer update."""
    gradient_checkpointing: bool | Literal["selective"] = False
    """Recompute activations in the backward pass: less memory, about a third more time. "selective" recomputes only norms,
    activation functions and gates, which takes little time, and saves less."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Type of the frozen model and the activations. The network's own weights stay fp32."""
    seed: int | None = option(None, minimum=0)
    """Seed of everything random. Unset: drawn, and written into the log and the metadata."""
    max_grad_norm: float = option(1.0, minimum=0)
    """Largest norm of the gradient; it is scaled down to this. 0 leaves it alone."""
    on_nan: Literal["stop", "skip", "rollback"] = "stop"
    """What to do when a loss or gradient is NaN or infinite, beyond the overflows that fp16 is expected to have. No weight changes
    because of it in any case. stop: end the run and say what caused it. skip: leave the update out. rollback: go back to the
    weights of the last saved state or end of an epoch, whichever was later, and go on with the pictures that come next."""
    nan_limit: int = option(10, minimum=0)
    """Updates that may be skipped or rolled back before the run stops all the same."""
    halve_batch_on_oom: bool = False
    """Where a pass runs out of memory, do it and all later ones of its size in two halves, and these in halves again if need be,
    at the same effective batch: the result is the same but for rounding and dropout. Otherwise the run stops with status 4."""
    ema_decay: float | None = option(None, minimum=0, maximum=1, zero_is_unset=True)
    """Keep a running average of the LoRA's weights with this decay (0.999), and save the average."""
    cuda_graphs: bool = True
    """On a CUDA GPU, with torch 2.13 or newer, record the forward and backward pass once for each shape of batch and replay
    it: the host then launches one thing instead of thousands. Each recording is checked against an ordinary pass; where one cannot be made, the
    run says why and trains without. Costs memory about as large as the activations while both kinds of pass are in use."""
    torch_compile: bool = False
    """Compile the UNet's repeated blocks (minutes at the first run; what was compiled is kept for the next one). Shapes are
    compiled one by one, so it suits few buckets."""
    dynamo_backend: Literal["no", "inductor", "aot_eager", "eager"] = "inductor"
    """What compiles under torch_compile. aot_eager and eager only trace, for finding faults."""


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its learning rates."""

    optimizer_type: str = option("AdamW", parse=named_in(OPTIMIZERS))
    """AdamW, AdamW8bit, Lion, AdaFactor, Prodigy, DAdaptAdam, AdamWScheduleFree, ..., or a dotted path to a class."""
    optimizer_args: dict[str, Any] = option(factory=dict, parse=parse_arguments)
    """Arguments of the optimizer, such as {weight_decay = 0.01}."""
    learning_rate: float = option(2e-6, minimum=0)
    """Learning rate where no other is given."""
    unet_lr: float | None = option(None, minimum=0)
    """Learning rate of the UNet's network; 0 leaves it out."""
    text_encoder_lr: list[float] | None = option(None, parse=parse_numbers, minimum=0)
    """Learning rate of the text encoders' network, one or one for each encoder; 0 leaves it out."""


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate moves."""

    lr_scheduler: str = option("constant", parse=named_in(SCHEDULES), aliases=("lr_scheduler_type",))
    """constant, constant_with_warmup, linear, cosine, cosine_with_restarts, polynomial, cosine_with_min_lr, ..., or a dotted path."""
    lr_scheduler_args: dict[str, Any] = option(factory=dict, parse=parse_arguments)
    """Further arguments of the schedule."""
    lr_warmup_steps: float = option(0.0, parse=parse_steps)
    """Warm-up in steps, or as a share of the run: 100, 0.1 or "10%"."""
    lr_decay_steps: float = option(0.0, parse=parse_steps)
    """Length of the final decay of warmup_stable_decay, in steps or as a share."""
    lr_scheduler_num_cycles: int = option(1, minimum=1)
    """Restarts of cosine_with_restarts."""
    lr_scheduler_power: float = 1.0
    """Power of polynomial."""
    lr_scheduler_min_lr_ratio: float = option(0.0, minimum=0, maximum=1)
    """Lowest learning rate as a share of the highest."""
    lr_scheduler_timescale: int | None = option(None, minimum=1, zero_is_unset=True)
    """Timescale of inverse_sqrt; unset: the warm-up steps."""


@dataclass(frozen=True)
class LossConfig:
    """What is minimised."""

    loss_type: Literal["l2", "l1", "huber", "smooth_l1"] = "l2"
    """Distance between prediction and target."""
    huber_schedule: Literal["constant", "exponential", "snr"] = "snr"
    """How the width of the Huber loss depends on the timestep."""
    huber_c: float = option(0.1, minimum=0)
    """Width of the Huber loss."""
    huber_scale: float = option(1.0, minimum=0)
    """Factor of the width."""
    min_snr_gamma: float | None = option(None, minimum=0, zero_is_unset=True)
    """Weigh timesteps by min(snr, gamma)/snr (Hang et al. 2023); 5 is usual."""
    debiased_estimation_loss: bool = False
    """Weigh timesteps by 1/sqrt(snr) (Yu et al. 2023)."""
    scale_v_pred_loss_like_noise_pred: bool = False
    """Weigh a v-prediction loss as if noise had been predicted."""
    v_pred_like_loss: float | None = option(None, minimum=0, zero_is_unset=True)
    """Add this much of a v-prediction-like weighting to a noise-prediction loss."""
    loss_weighting: str | None = option(None, parse=named_in(LOSS_WEIGHTINGS))
    """Further weighting of timesteps: a registered name or a dotted path."""
    masked_loss: bool = False
    """Weigh the loss by masks (conditioning_data_dir or alpha_mask)."""
    prior_loss_weight: float = option(1.0, minimum=0)
    """Weight of regularisation pictures."""
    prior_prediction_rate: float = option(0.0, minimum=0, maximum=1)
    """Share of the samples that are taught to stay as the frozen model: the caption's trigger is replaced by class_word
    (in a quarter of them the caption is empty) and the frozen model's own prediction is the target."""
    prior_prediction_weight: float = option(1.0, minimum=0)
    """Weight of those samples."""


@dataclass(frozen=True)
class NoiseConfig:
    """The noise that pictures are corrupted with, and the timesteps."""

    noise_offset: float | None = option(None, minimum=0, zero_is_unset=True)
    """Add noise that is constant over each channel: helps very dark and very bright pictures; 0.05 is usual."""
    noise_offset_random_strength: bool = False
    """Draw the strength of noise_offset between 0 and its value."""
    adaptive_noise_scale: float | None = option(None, zero_is_unset=True)
    """Add this times the mean of each latent channel to noise_offset."""
    multires_noise_iterations: int | None = option(None, minimum=1, zero_is_unset=True)
    """Add noise at this many coarser scales (Whitaker 2023); 6 to 10 is usual. Comes after noise_offset, where both are set."""
    multires_noise_discount: float = option(0.3, minimum=0, maximum=1)
    """Strength of each coarser scale relative to the one before."""
    ip_noise_gamma: float | None = option(None, minimum=0, zero_is_unset=True)
    """Input perturbation (Ning et al. 2023): extra noise on the model's input only; 0.1 is usual."""
    ip_noise_gamma_random_strength: bool = False
    """Draw the strength of ip_noise_gamma between 0 and its value."""
    min_timestep: int | None = option(None, minimum=0, maximum=999)
    """Smallest timestep trained."""
    max_timestep: int | None = option(None, minimum=1, maximum=1000)
    """Timesteps trained are below this."""


@dataclass(frozen=True)
class ValidationConfig:
    """The loss on held-out pictures (see validation_split), with fixed noise and timesteps."""

    validate_every_n_steps: int | None = option(None, minimum=1, zero_is_unset=True)
    """Measure every n steps. With neither this nor validate_every_n_epochs: after each epoch."""
    validate_every_n_epochs: int | None = option(None, minimum=1, zero_is_unset=True)
    """Measure every n epochs."""
    validation_timesteps: list[int] = option(factory=lambda: [50, 250, 500, 750, 950], minimum=0, maximum=999)
    """Timesteps at which each held-out picture is measured."""
    max_validation_steps: int | None = option(None, minimum=1, zero_is_unset=True)
    """Measure at most this many batches."""
