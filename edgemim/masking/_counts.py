"""How many patches a ratio hides, exactly: 0.9 of 100 is 90, though its binary form is a little more."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from edgemim.errors import ConfigError


def check_ratio(mask_ratio: float) -> None:
    """Refuse a ratio outside (0, 1).

    Raises:
        ConfigError: As said.
    """
    if not 0 < mask_ratio < 1:
        raise ConfigError(f"masking.mask_ratio must lie in (0, 1); got {mask_ratio}")


def hidden_count(
    total: int, mask_ratio: float, *, rounded: Callable[[Fraction], int] = math.ceil, what: str = "patches"
) -> int:
    """How many of `total` are hidden; the ratio is taken as the decimal number that it was written as.

    Args:
        total: Patches or cells of an image.
        mask_ratio: In (0, 1).
        rounded: To a whole number; up leaves floor(total * (1 - mask_ratio)) visible, as MAE does.
        what: Of which there are `total`, for the message.

    Raises:
        ConfigError: The ratio hides all of them or none.
    """
    hidden = rounded(total * Fraction(str(mask_ratio)))
    if not 0 < hidden < total:
        raise ConfigError(
            f"masking.mask_ratio {mask_ratio} leaves {total - hidden} of {total} {what} visible; "
            "choose a ratio that hides some and shows some"
        )
    return hidden
