"""Settings of what is measured after a run without labels, and on its way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgemim.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What is measured on the test split after a run without labels.

    Args:
        probe: `knn`, `linear`, `both` or `none`.
        max_images: Largest number of training images whose features are taken.
    """

    probe: Literal["knn", "linear", "both", "none"] = "knn"
    max_images: int = 10_000

    def __post_init__(self) -> None:
        if self.max_images < 1:
            raise ConfigError(f"evaluation.max_images must be at least 1; got {self.max_images}")
