"""Projectors from the student's width to the teacher's."""

from __future__ import annotations

from torch import nn

from edgemim.errors import ConfigError
from edgemim.models.initialise import initialise_linear

PROJECTORS = ("none", "linear", "mlp", "mlp2")


def build_projector(kind: str, width: int, teacher_width: int) -> nn.Module | None:
    """A projector of tokens [..., width] to [..., teacher_width].

    Args:
        kind: `linear`; `mlp`: linear, GELU, linear; `mlp2`: two of these in a row; `none`: no projector.

    Raises:
        ConfigError: Unknown kind, or `none` between two widths.
    """
    if kind not in PROJECTORS:
        raise ConfigError(f"method.projector must be one of {', '.join(PROJECTORS)}; got {kind!r}")
    if kind == "none":
        if width != teacher_width:
            raise ConfigError(
                f"method.projector 'none' needs equal widths; the student has {width}, the teacher {teacher_width}"
            )
        return None
    if kind == "linear":
        return nn.Linear(width, teacher_width).apply(initialise_linear)
    layers = _mlp(width, teacher_width)
    if kind == "mlp2":
        layers += _mlp(teacher_width, teacher_width)
    return nn.Sequential(*layers).apply(initialise_linear)


def _mlp(width: int, out: int) -> list[nn.Module]:
    return [nn.Linear(width, out), nn.GELU(), nn.Linear(out, out)]
