"""Settings of the random crop, flip and jitter."""

from __future__ import annotations

from dataclasses import dataclass

from edgemim.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class AugmentationSettings:
    """Random crop, flip and colour jitter.

    Args:
        min_scale, max_scale: Share of the image's area that a random crop takes.
        max_aspect: Aspect ratios of the crop lie in [1 / max_aspect, max_aspect]; 1 keeps the image's own.
        flip: Mirror every second image, left to right.
        colour_jitter: Brightness, contrast and saturation are each scaled by a factor from
            [1 - colour_jitter, 1 + colour_jitter], in [0, 1]; 0: none.
        jitter_teacher: Whether a teacher sees the jitter too, or the plain crop.
        views: Different crops that an image has: epoch e shows crop e % views. 0: a new one in each epoch.
    """

    min_scale: float = 0.2
    max_scale: float = 1.0
    max_aspect: float = 4 / 3
    flip: bool = True
    colour_jitter: float = 0.0
    jitter_teacher: bool = True
    views: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.min_scale <= self.max_scale <= 1:
            raise ConfigError(
                "augmentation needs 0 < min_scale <= max_scale <= 1; "
                f"got min_scale {self.min_scale} and max_scale {self.max_scale}"
            )
        if self.max_aspect < 1:
            raise ConfigError(f"augmentation.max_aspect must be at least 1; got {self.max_aspect}")
        if not 0 <= self.colour_jitter <= 1:
            raise ConfigError(f"augmentation.colour_jitter must lie in [0, 1]; got {self.colour_jitter}")
        if self.views < 0:
            raise ConfigError(f"augmentation.views must not be negative; got {self.views}")

    @property
    def crops_whole(self) -> bool:
        """Whether every crop is the largest one that fits, in the middle: nothing about it is random."""
        return self.min_scale == 1 and self.max_aspect == 1

    @property
    def different_views(self) -> int:
        """How many views of an image a run shows, however long it is; 0 where there is a new one in each epoch."""
        fixed = self.crops_whole and not self.flip and not self.colour_jitter
        return 1 if fixed else self.views

    def view(self, epoch: int) -> int:
        """Which view of an image an epoch shows: two epochs with the same one show the same pixels."""
        return epoch % self.different_views if self.different_views else epoch
