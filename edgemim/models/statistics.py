"""Mean and deviation that the images of a model were normalised with, as far as anybody says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edgemim.errors import ConfigError
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD
from edgemim.registry import did_you_mean

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def statistics_of(config: Mapping[str, Any]) -> Statistics:
    """Those of a timm config; ImageNet's where it says nothing."""
    return tuple(config.get("mean") or IMAGENET_MEAN), tuple(config.get("std") or IMAGENET_STD)


def given_statistics(settings: Mapping[str, Any]) -> Statistics | None:
    """`teacher.mean` and `teacher.std`; None where neither is set.

    Raises:
        ConfigError: They are no three numbers each, or a deviation is not positive.
    """
    if "mean" not in settings and "std" not in settings:
        return None
    return _three_numbers(settings, "mean"), _three_numbers(settings, "std")


def statistics_of_file(named: str) -> Statistics:
    """Mean and deviation of the images that a bare weights file was trained on, which it does not say.

    Those of the tag in `teacher.backbone`; without one, what timm knows of the architecture: ImageNet's where
    weights with these are known or no weights at all, the only ones where all weights have the same.

    Raises:
        ConfigError: The tag is unknown, or it would be a guess.
    """
    architecture, _, tag = named.partition(".")
    known = _known_statistics(architecture)
    if tag:
        if tag not in known:
            raise ConfigError(f"unknown tag {tag!r} in teacher.backbone={named}{did_you_mean(tag, known)}")
        return known[tag]
    different = set(known.values())
    imagenet = (IMAGENET_MEAN, IMAGENET_STD)
    if not different or imagenet in different:
        return imagenet
    if len(different) > 1:
        raise ConfigError(
            f"a weights file does not say how its images were normalised, and weights of {architecture} differ in it; "
            f"set teacher.mean and teacher.std, or name a tag: teacher.backbone={architecture}.{sorted(known)[0]}"
        )
    return different.pop()


def _known_statistics(architecture: str) -> dict[str, Statistics]:
    """Mean and deviation of every set of weights that timm knows of an architecture, by tag."""
    import timm

    full = timm.list_models(f"{architecture}.*", pretrained=True)
    configs = {name.partition(".")[2]: timm.get_pretrained_cfg(name) for name in full}
    return {tag: statistics_of(config.to_dict()) for tag, config in configs.items() if config is not None}


def _three_numbers(settings: Mapping[str, Any], name: str) -> tuple[float, ...]:
    value = settings.get(name)
    numbers = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else []
    if len(numbers) != 3 or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise ConfigError(f"teacher.{name} is a list of three numbers; got {value!r}")
    if name == "std" and min(numbers) <= 0:
        raise ConfigError(f"teacher.std must be positive; got {value!r}")
    return tuple(float(n) for n in numbers)
