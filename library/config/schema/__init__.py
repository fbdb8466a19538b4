"""Every option of the project: one frozen dataclass a group; keys are unique over all groups."""

from __future__ import annotations

from dataclasses import dataclass, field

from library.config.schema.data import BucketConfig, CaptionConfig, DataConfig, ImageConfig
from library.config.schema.model import ModelConfig
from library.config.schema.network import NetworkConfig
from library.config.schema.output import ConfigConfig, LoggingConfig, SamplingConfig, SavingConfig
from library.config.schema.training import (
    LossConfig,
    NoiseConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
    ValidationConfig,
)


@dataclass(frozen=True)
class Config:
    """The whole configuration of a run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: DataConfig = field(default_factory=DataConfig)
    buckets: BucketConfig = field(default_factory=BucketConfig)
    captions: CaptionConfig = field(default_factory=CaptionConfig)
    images: ImageConfig = field(default_factory=ImageConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    saving: SavingConfig = field(default_factory=SavingConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    config: ConfigConfig = field(default_factory=ConfigConfig)
