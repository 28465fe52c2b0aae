"""The settings of a training run: what a recipe may say, and what `--set` may override."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgemim.errors import ConfigError
from edgemim.training.settings.augmentation import AugmentationSettings
from edgemim.training.settings.contract import ContractSettings
from edgemim.training.settings.evaluation import EvaluationSettings
from edgemim.training.settings.stream import StreamSettings
from edgemim.training.settings.training import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Everything that decides a run's result.

    Args:
        data: As `edgemim.data.open_splits` takes it; for runs without labels also a stream (`edgemim.data.streams`).
        seed: Of every random number.
        deterministic: Ask torch for deterministic kernels.
        init: Checkpoint to start from; empty: fresh weights.
        backbone: `name` and timm arguments.
        method: `name` and the method's settings; empty for fine-tuning.
        masking: `name` and the strategy's settings.
        teacher: `source`, `backbone`, `licence` and timm arguments; see `edgemim.models.teachers`.
        cache_teacher: Let the teacher look at every crop once, before training, and read what it saw from disk; see
            `edgemim.training.teacher_cache`.
    """

    data: str = "digits"
    seed: int = 0
    deterministic: bool = False
    init: str = ""
    backbone: dict[str, Any] = field(default_factory=dict)
    method: dict[str, Any] = field(default_factory=dict)
    masking: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] = field(default_factory=dict)
    cache_teacher: bool = False
    preprocess: ContractSettings = field(default_factory=ContractSettings)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    training: TrainingSettings
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    stream: StreamSettings = field(default_factory=StreamSettings)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative; got {self.seed}")
