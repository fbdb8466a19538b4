"""What optimizer_args may hold, for every optimizer that has a name of its own.

The fields are the arguments of the packages' constructors, with their defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from library.config.schema.fields import option

Betas = tuple[float, float]


@dataclass(frozen=True)
class AdamWOptions:
    """torch's AdamW (Loshchilov & Hutter 2019)."""

    betas: Betas = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    eps: float = option(1e-8, minimum=0)
    """Added to the denominator."""
    weight_decay: float = option(0.01, minimum=0)
    """Decoupled weight decay."""
    amsgrad: bool = False
    """Divide by the largest second moment so far."""
    fused: bool = True
    """One kernel for the whole update."""
    capturable: bool = False
    """Keep the step count on the GPU, so that the update can be part of a CUDA graph."""


@dataclass(frozen=True)
class BitsAndBytesAdamWOptions:
    """bitsandbytes' AdamW (Dettmers et al. 2022)."""

    betas: Betas = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    eps: float = option(1e-8, minimum=0)
    """Added to the denominator."""
    weight_decay: float = option(0.01, minimum=0)
    """Decoupled weight decay."""
    min_8bit_size: int = option(4096, minimum=0)
    """Parameter groups with fewer values keep fp32 state."""


@dataclass(frozen=True)
class LionOptions:
    """Lion (Chen et al. 2023); its learning rate is 3 to 10 times smaller than AdamW's."""

    betas: Betas = (0.9, 0.99)
    """Weight of the running mean in the update, and its decay."""
    weight_decay: float = option(0.0, minimum=0)
    """Decoupled weight decay."""
    use_triton: bool = False
    """One Triton kernel for the whole update."""
    decoupled_weight_decay: bool = False
    """Make the decay independent of the learning rate's size."""


@dataclass(frozen=True)
class BitsAndBytesLionOptions:
    """bitsandbytes' Lion."""

    betas: Betas = (0.9, 0.99)
    """Weight of the running mean in the update, and its decay."""
    weight_decay: float = option(0.0, minimum=0)
    """Decoupled weight decay."""
    min_8bit_size: int = option(4096, minimum=0)
    """Parameter groups with fewer values keep fp32 state."""


@dataclass(frozen=True)
class SGDOptions:
    """Gradient descent with Nesterov momentum."""

    momentum: float = option(0.9, minimum=0, maximum=1)
    """Decay of the running sum of gradients; above 0."""
    weight_decay: float = option(0.0, minimum=0)
    """Weight decay, added to the gradient."""


@dataclass(frozen=True)
class BitsAndBytesSGDOptions:
    """bitsandbytes' gradient descent; its momentum is the plain one, Nesterov's term is not implemented there."""

    momentum: float = option(0.9, minimum=0, maximum=1)
    """Decay of the running sum of gradients; above 0."""
    weight_decay: float = option(0.0, minimum=0)
    """Weight decay, added to the gradient."""
    min_8bit_size: int = option(4096, minimum=0)
    """Parameter groups with fewer values keep fp32 state."""


@dataclass(frozen=True)
class AdaFactorOptions:
    """Adafactor (Shazeer & Stern 2018) of transformers."""

    relative_step: bool = True
    """Follow its own schedule 1/sqrt(step); learning rates and lr_scheduler then have no effect."""
    scale_parameter: bool = True
    """Scale the step by the size of the tensor."""
    warmup_init: bool = False
    """Begin that schedule with a warm-up; implies relative_step."""
    eps: tuple[float, float] = (1e-30, 1e-3)
    """Added to the squared gradient; least size of a tensor for scale_parameter."""
    clip_threshold: float = option(1.0, minimum=0)
    """Largest root mean square of an update."""
    decay_rate: float = -0.8
    """Exponent of the decay of the second moment."""
    beta1: float | None = None
    """Decay of a first moment; none is kept where unset."""
    weight_decay: float = option(0.0, minimum=0)
    """Decoupled weight decay."""


@dataclass(frozen=True)
class ProdigyOptions:
    """Prodigy (Mishchenko & Defazio 2023): estimates the learning rate; give 1."""

    betas: Betas = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    beta3: float | None = None
    """Decay of the estimate's own means; unset: the square root of the second beta."""
    eps: float = option(1e-8, minimum=0)
    """Added to the denominator."""
    weight_decay: float = option(0.0, minimum=0)
    """Weight decay."""
    decouple: bool = True
    """Decay the weights as AdamW does, not through the gradient."""
    use_bias_correction: bool = False
    """Adam's bias correction."""
    safeguard_warmup: bool = False
    """Keep the learning rate out of the estimate, for runs with a warm-up."""
    d0: float = option(1e-6, minimum=0)
    """First estimate."""
    d_coef: float = option(1.0, minimum=0)
    """Factor of the estimate; 0.5 or 2 are the usual changes."""
    growth_rate: float = inf
    """Largest growth of the estimate in one step."""
    slice_p: int = option(1, minimum=1)
    """Estimate from every n-th value only, to save memory; 11 is usual."""


@dataclass(frozen=True)
class DAdaptAdamOptions:
    """Adam with D-Adaptation (Defazio & Mishchenko 2023): estimates the learning rate; give 1."""

    betas: Betas = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    eps: float = option(1e-8, minimum=0)
    """Added to the denominator."""
    weight_decay: float = option(0.0, minimum=0)
    """Weight decay."""
    decouple: bool = False
    """Decay the weights as AdamW does, not through the gradient."""
    use_bias_correction: bool = False
    """Adam's bias correction."""
    d0: float = option(1e-6, minimum=0)
    """First estimate."""
    growth_rate: float = inf
    """Largest growth of the estimate in one step; 1.02 acts as a warm-up."""


@dataclass(frozen=True)
class DAdaptAdamPreprintOptions:
    """Adam with D-Adaptation, as in the first version of the paper."""

    betas: Betas = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    eps: float = option(1e-8, minimum=0)
    """Added to the denominator."""
    weight_decay: float = option(0.0, minimum=0)
    """Weight decay."""
    decouple: bool = False
    """Decay the weights as AdamW does, not through the gradient."""
    d0: float = option(1e-6, minimum=0)
    """First estimate."""
    growth_rate: float = inf
    """Largest growth of the estimate in one step; 1.02 acts as a warm-up."""


@dataclass(frozen=True)
class DAdaptAdaGradOptions:
    """AdaGrad with D-Adaptation."""

    momentum: float = option(0.0, minimum=0)
    """Momentum."""
    eps: float = option(1e-6, minimum=0)
    """Added to the denominator."""
    weight_decay: float = option(0.0, minimum=0)
    """Weight decay, added to the gradient."""
    d0: float = option(1e-6, minimum=0)
    """First estimate."""
    growth_rate: float = inf
    """Largest growth of the estimate in one step."""


@dataclass(frozen=True)
class DAdaptAdanOptions:
    """Adan (Xie et al. 2022) with D-Adaptation."""

    betas: tuple[float, float, float] = (0.98, 0.92, 0.99)
    """Decay of the running means of the gradient, of its change, and of its square."""
    eps: float = option(1e-8, minimum=0)
    """Added to the denominator."""
    weight_decay: float = option(0.02, minimum=0)
    """Decoupled weight decay."""
    no_prox: bool = False
    """Decay before the update as AdamW does, not by the proximal step."""
    d0: float = option(1e-6, minimum=0)
    """First estimate."""
    growth_rate: float = inf
    """Largest growth of the estimate in one step."""


@dataclass(frozen=True)
class DAdaptLionOptions:
    """Lion with D-Adaptation."""

    betas: Betas = (0.9, 0.99)
    """Weight of the running mean in the update, and its decay."""
    weight_decay: float = option(0.0, minimum=0)
    """Decoupled weight decay."""
    d0: float = option(1e-6, minimum=0)
    """First estimate."""


@dataclass(frozen=True)
class DAdaptSGDOptions:
    """Gradient descent with D-Adaptation."""

    momentum: float = option(0.0, minimum=0, maximum=1)
    """Momentum."""
    weight_decay: float = option(0.0, minimum=0)
    """Weight decay, added to the gradient."""
    d0: float = option(1e-6, minimum=0)
    """First estimate."""
    growth_rate: float = inf
    """Largest growth of the estimate in one step."""


@dataclass(frozen=True)
class AdamWScheduleFreeOptions:
    """Schedule-free AdamW (Defazio et al. 2024): averages the weights instead of decaying the rate."""

    betas: Betas = (0.9, 0.999)
    """Weight of the average where gradients are taken, and decay of the mean of the gradient's square."""
    eps: float = option(1e-8, minimum=0)
    """Added to the denominator."""
    weight_decay: float = option(0.0, minimum=0)
    """Weight decay."""
    warmup_steps: int = option(0, minimum=0)
    """The optimizer's own warm-up, besides lr_warmup_steps."""
    r: float = 0.0
    """Later steps weigh more in the average, by step^r."""
    weight_lr_power: float = 2.0
    """Steps weigh in the average by rate^power."""
    foreach: bool = True
    """One kernel for many tensors."""


@dataclass(frozen=True)
class RAdamScheduleFreeOptions:
    """Schedule-free RAdam, which needs no warm-up."""

    betas: Betas = (0.9, 0.999)
    """Weight of the average where gradients are taken, and decay of the mean of the gradient's square."""
    eps: float = option(1e-8, minimum=0)
    """Added to the denominator."""
    weight_decay: float = option(0.0, minimum=0)
    """Weight decay."""
    r: float = 0.0
    """Later steps weigh more in the average, by step^r."""
    weight_lr_power: float = 2.0
    """Steps weigh in the average by rate^power."""
    foreach: bool = True
    """One kernel for many tensors."""
    silent_sgd_phase: bool = True
    """Change no weight in the first steps, while the second moment is unreliable."""


@dataclass(frozen=True)
class SGDScheduleFreeOptions:
    """Schedule-free gradient descent."""

    momentum: float = option(0.9, minimum=0, maximum=1)
    """Weight of the average where gradients are taken; above 0 and below 1."""
    weight_decay: float = option(0.0, minimum=0)
    """Weight decay."""
    warmup_steps: int = option(0, minimum=0)
    """The optimizer's own warm-up, besides lr_warmup_steps."""
    r: float = 0.0
    """Later steps weigh more in the average, by step^r."""
    weight_lr_power: float = 2.0
    """Steps weigh in the average by rate^power."""
    foreach: bool = True
    """One kernel for many tensors."""
