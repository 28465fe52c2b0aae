"""What a sweep tries: models times input sizes, each model once, the cheapest first.

The precisions of one model at one size share an export and a check, so that they are measured side by side.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemim.errors import ConfigError
from edgemim.models.build import backbone_names, build_backbone, input_size
from edgemim.models.checkpoint import Checkpoint, load_checkpoint
from edgemim.pipeline.calibration import trained_on
from edgemim.pipeline.evaluation import evaluation_images
from edgemim.pipeline.sweep.settings import SweepSettings
from edgemim.registry import did_you_mean

RANDOM, TRAINED = "random weights", "checkpoint"


@dataclass(frozen=True, kw_only=True)
class Combination:
    """One model at one input size.

    Attributes:
        model: What it is called: the checkpoint's folder or the backbone, with a number where two are called the same.
        source: `RANDOM` or `TRAINED`.
        architecture, arguments: timm's name of it and its arguments, at its own size.
        size: Height and width of the input in pixels.
        own_size: The size it was made for.
        parameters: Of the model at its own size.
        checkpoint: Folder of its weights; None: they are random.
        fingerprint: Of the checkpoint.
    """

    model: str
    source: str
    architecture: str
    arguments: Mapping[str, Any]
    size: tuple[int, int]
    own_size: tuple[int, int]
    parameters: int
    checkpoint: Path | None = None
    fingerprint: str | None = None

    @property
    def name(self) -> str:
        """`vit_tiny_patch16_224 at 224`."""
        return f"{self.model} at {shape_name(self.size)}"

    @property
    def key(self) -> str:
        """The same as the name of a folder."""
        return f"{self.model}-{shape_name(self.size)}"

    @property
    def cost(self) -> float:
        """How much work it is beside the others, in parameters times pixels: exact for none, in order for most."""
        return float(self.parameters) * self.size[0] * self.size[1]


def list_combinations(settings: SweepSettings) -> list[Combination]:
    """Every model at every size, each once, by rising cost.

    Raises:
        ConfigError: An unknown backbone, or a checkpoint without images to calibrate on.
        ArtifactError, DataError: A checkpoint or the data cannot be used.
    """
    _check_names(settings.backbones)
    found = [*_checkpoints(settings), *_backbones(settings)]
    named = [
        Combination(**{**facts, "model": name, "size": size})
        for name, facts in zip(_unique([f["model"] for f in found]), found, strict=True)
        for size in dict.fromkeys([(side, side) for side in settings.sizes] or [facts["own_size"]])
    ]
    return sorted(named, key=lambda combination: combination.cost)


def shape_name(size: tuple[int, int]) -> str:
    """`224`, or `224x160` where height and width differ."""
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def _check_names(names: tuple[str, ...]) -> None:
    """Refuse a mistyped name before anything is built."""
    if not names:
        return
    known = backbone_names()
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown backbone {name!r}{did_you_mean(name, known)}")


def _checkpoints(settings: SweepSettings) -> Iterator[dict[str, Any]]:
    """Facts of each checkpoint; the same one under two paths counts once."""
    seen = set()
    for path in settings.checkpoints:
        checkpoint = load_checkpoint(path)
        fingerprint = checkpoint.artifact.fingerprint
        if fingerprint in seen:
            continue
        seen.add(fingerprint)
        _check_data(checkpoint, settings)
        own = checkpoint.preprocess.size
        yield {
            "model": _file_name(path.resolve().name),
            "source": TRAINED,
            "architecture": checkpoint.architecture,
            "arguments": dict(checkpoint.info.model_args),
            "own_size": (int(own[0]), int(own[1])),
            "parameters": _count(checkpoint.model),
            "checkpoint": path,
            "fingerprint": fingerprint,
        }


def _backbones(settings: SweepSettings) -> Iterator[dict[str, Any]]:
    for name in dict.fromkeys(settings.backbones):
        model = build_backbone(name)
        own = input_size(model, {})
        yield {
            "model": name,
            "source": RANDOM,
            "architecture": name,
            "arguments": {},
            "own_size": own,
            "parameters": _count(model),
        }


def _check_data(checkpoint: Checkpoint, settings: SweepSettings) -> None:
    """Refuse a checkpoint that there are no images for, or images of other classes, before time is spent."""
    if not settings.data and not trained_on(checkpoint).spec:
        raise ConfigError(
            f"checkpoint {checkpoint.artifact.path} does not say what it was trained on; give images with --data DATA, "
            "or --data random:64 to measure nothing but latency"
        )
    if not settings.is_noise:
        evaluation_images(checkpoint, settings.data)


def _count(model: Any) -> int:
    return sum(int(parameter.numel()) for parameter in model.parameters())


def _file_name(name: str) -> str:
    """Without what a file system or a table could stumble over."""
    return re.sub(r"[^\w.-]+", "-", name).lstrip(".") or "checkpoint"


def _unique(names: list[str]) -> list[str]:
    """The names, a number behind those that were there before."""
    made: list[str] = []
    for name in names:
        number, unique = 1, name
        while unique in made:
            number += 1
            unique = f"{name}-{number}"
        made.append(unique)
    return made
