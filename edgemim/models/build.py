"""Backbones by timm name and arguments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgemim.errors import ConfigError, MissingDependencyError
from edgemim.registry import did_you_mean

if TYPE_CHECKING:
    from torch import nn

# Arguments of `timm.create_model` that would load other weights, or are ours to give.
_RESERVED = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "num_classes")
_REGISTERED = re.compile(r"^@register_model\s*\ndef (\w+)\(", re.MULTILINE)


def backbone_names() -> dict[str, str]:
    """Every timm backbone and its family (timm's module), read from timm's source; torch is not imported.

    Raises:
        MissingDependencyError: timm is not installed.
    """
    spec = find_spec("timm")
    if spec is None or spec.origin is None:
        raise MissingDependencyError("the list of backbones", "timm", "train")
    return dict(sorted(_registered(Path(spec.origin).parent / "models")))


def _registered(folder: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(folder.glob("*.py")):
        for name in _REGISTERED.findall(file.read_text("utf-8")):
            yield name, file.stem


def build_backbone(name: str, arguments: Mapping[str, Any] | None = None, *, num_classes: int = 0) -> nn.Module:
    """Make a timm model with random weights.

    Args:
        name: timm architecture, without a pretrained tag.
        arguments: Passed to timm (`img_size`, `patch_size`, `embed_dim`, ...).
        num_classes: 0 for a backbone without a head.

    Raises:
        ConfigError: timm has no such model, or the model refuses the arguments.
    """
    import timm

    if not timm.is_model(name):
        raise ConfigError(f"unknown backbone {name!r}{did_you_mean(name, timm.list_models())}")
    check_arguments(arguments or {})
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=num_classes, **_as_timm_arguments(arguments or {})
        )
    except (
        TypeError,
        ValueError,
        AssertionError,
        AttributeError,
        RuntimeError,
        LookupError,
        ZeroDivisionError,
    ) as error:
        raise ConfigError(f"backbone {name!r} refuses {dict(arguments or {})}: {error}") from error
    return model


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse timm arguments that would load weights from a place that nobody checks.

    Raises:
        ConfigError: Names the first of them.
    """
    reserved = [name for name in arguments if name in _RESERVED]
    if reserved:
        raise ConfigError(f"{reserved[0]!r} is not an argument of a backbone; weights come by --init or --teacher")


def input_size(model: nn.Module, arguments: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width in pixels that a timm model takes."""
    patch_embed = getattr(model, "patch_embed", None)
    size = getattr(patch_embed, "img_size", None) or arguments.get("img_size")
    if size is None:
        size = model.pretrained_cfg.get("input_size", (3, 224, 224))[1:]  # type: ignore[operator,union-attr]
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def classifiers(model: nn.Module) -> tuple[str, ...]:
    """Beginnings of the names of a timm model's classifier tensors (`head.`)."""
    names = model.pretrained_cfg.get("classifier") or "head"  # type: ignore[operator,union-attr]
    return tuple(f"{n}." for n in ((names,) if isinstance(names, str) else names))


def _as_timm_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
