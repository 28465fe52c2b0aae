"""Settings of the preprocessing contract."""

from __future__ import annotations

from dataclasses import dataclass

from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess


@dataclass(frozen=True, kw_only=True)
class ContractSettings:
    """The preprocessing contract; see `Preprocess`.

    Args:
        size: Height and width in pixels for backbones that take images of any size; 0: the backbone's own.
    """

    size: int = 0
    crop_ratio: float = 0.875
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def at(self, size: tuple[int, int]) -> Preprocess:
        """The contract for a model that takes images of `size`."""
        return Preprocess(
            size=size,
            crop_ratio=self.crop_ratio,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
        )
