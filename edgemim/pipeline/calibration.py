"""What every way to INT8 begins with: the images to calibrate on, and the exported float model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgemim.artifact import Artifact
from edgemim.data.open import is_stream, open_splits
from edgemim.errors import ConfigError
from edgemim.models.checkpoint import Checkpoint
from edgemim.runtime.targets._base import Form

if TYPE_CHECKING:
    from edgemim.quantize.calibration import Calibration, ImageSource

_GOLDEN = 8

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """The data set of the last training stage, and the seed by which test images were held out.

    Attributes:
        spec: Empty where nobody knows, or where it was a stream, which only training reads.
        stream: That stream.
    """

    spec: str = ""
    seed: int = 0
    stream: str = ""


def trained_on(checkpoint: Checkpoint) -> TrainedOn:
    """What the checkpoint's provenance says of its data."""
    for record in reversed(checkpoint.artifact.provenance):
        if isinstance(record.get("data"), Mapping):
            spec, seed = str(record["data"]["spec"]), int(record["settings"]["seed"])
            return TrainedOn(stream=spec, seed=seed) if is_stream(spec) else TrainedOn(spec=spec, seed=seed)
    return TrainedOn()


def calibration_images(checkpoint: Checkpoint, spec: str, *, seed: int = 0) -> ImageSource:
    """Training images of `spec`, or of the data that the checkpoint was trained on; `random:N` gives noise.

    Raises:
        ConfigError: No data is named anywhere.
    """
    from edgemim.quantize.random_images import random_images

    known = trained_on(checkpoint)
    if not (spec or known.spec):
        why = "does not say what it was trained on"
        if known.stream:
            why = f"was trained on {known.stream}, which only pretrain and distill read"
        raise ConfigError(
            f"there are no images to calibrate on and compare with: the checkpoint {why}; give some with "
            "--calibration DATA"
        )
    noise = random_images(spec or known.spec, checkpoint.preprocess, seed=seed)
    return open_splits(spec or known.spec, seed=known.seed).train if noise is None else noise


def calibration_batches(checkpoint: Checkpoint, spec: str, *, count: int, seed: int, say: Say) -> Calibration:
    """Choose calibration images, and tell what a user should know of the choice."""
    from edgemim.quantize.calibration import choose_calibration

    images = calibration_images(checkpoint, spec, seed=seed)
    batches = choose_calibration(images, checkpoint.preprocess, count=count, seed=seed)
    for note in batches.notes:
        say(note)
    return batches


def golden_rows(images: ImageSource) -> list[int]:
    """Which images travel as golden ones: up to 8, spread over all."""
    count = min(_GOLDEN, len(images))
    return [i * len(images) // count for i in range(count)]


def export_float(
    checkpoint: Checkpoint,
    images: ImageSource,
    out: Path,
    *,
    output: Literal["head", "tokens"] = "head",
    flavours: tuple[str, ...] = ("fp32",),
    form: Form = "plain",
) -> Artifact:
    """The checkpoint as an `onnx` artifact with golden images from `images`; see `export_checkpoint`."""
    from edgemim.export.onnx import export_checkpoint

    rows = golden_rows(images)
    pixels = np.stack([checkpoint.preprocess.pixels(images.image(i)) for i in rows])
    return export_checkpoint(checkpoint, out, pixels=pixels, output=output, flavours=flavours, form=form)
