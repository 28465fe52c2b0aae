"""Settings of what is measured after a run without labels, and on its way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgemim.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What is measured on the test split after a run without labels, and on its way.

    Args:
        probe: `knn`, `linear`, `both` or `none`.
        max_images: Largest number of training images whose features are taken; on the way of test images too.
        every: Epochs between two measurements of the k-NN accuracy while the run goes on; 0: only after it.
    """

    probe: Literal["knn", "linear", "both", "none"] = "knn"
    max_images: int = 10_000
    every: float = 0.0

    def __post_init__(self) -> None:
        if self.max_images < 1:
            raise ConfigError(f"evaluation.max_images must be at least 1; got {self.max_images}")
        if self.every < 0:
            raise ConfigError(f"evaluation.every must not be negative; got {self.every}")
