"""From a checkpoint to a bundle: export, quantize, and pack what the device needs to check it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgemim.artifact import Artifact, refuse_existing, writing
from edgemim.data.images import UNLABELLED, Images
from edgemim.data.open import open_splits
from edgemim.errors import ConfigError, DataError
from edgemim.models.checkpoint import Checkpoint, load_checkpoint
from edgemim.runtime.bundle import write_bundle
from edgemim.runtime.gates import check_limits
from edgemim.runtime.targets import TARGETS

if TYPE_CHECKING:
    from edgemim.quantize.calibration import Calibration

_GOLDEN = 8

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class BundleSettings:
    """What goes into a bundle.

    Args:
        target: Name of the target.
        precision: `int8`: fp32 and INT8 candidates; `fp32`: only that.
        quantizer: Name of the quantizer.
        calibration: Data set of the calibration images; empty: the one that the checkpoint was trained on.
        calibration_count: Images to calibrate on.
        evaluation: Data set whose test split travels in the bundle; empty: the one the checkpoint was trained on;
            `none`: no evaluation images.
        evaluation_count: Largest number of evaluation images.
        gates: Limits that `check` holds every candidate to.
        seed: Of the choice of images.
    """

    target: str = "x86"
    precision: Literal["fp32", "int8"] = "int8"
    quantizer: str = "nncf"
    calibration: str = ""
    calibration_count: int = 300
    evaluation: str = ""
    evaluation_count: int = 2000
    gates: dict[str, float] = field(default_factory=dict)
    seed: int = 0


def make_bundle(
    checkpoint_path: Path, out: Path, settings: BundleSettings, *, say: Say, overwrite: bool = False
) -> Artifact:
    """Export a checkpoint, quantize it, and write a bundle.

    Args:
        checkpoint_path: A checkpoint folder.
        out: The bundle's folder.
        settings: What goes into it.
        say: Called with a line for the user, such as a warning about the calibration images.
        overwrite: Replace a folder that edgemim wrote.

    Raises:
        ConfigError: Unknown target, quantizer or gate; no data to calibrate on.
        EdgemimError: The model cannot be exported or quantized; nothing is written then.
    """
    refuse_existing(out, overwrite=overwrite)
    target = TARGETS.get(settings.target)
    limits = check_limits(settings.gates)
    checkpoint = load_checkpoint(checkpoint_path)
    trained_on = _trained_on(checkpoint)
    calibration = _calibration_images(settings, trained_on)
    evaluation = _evaluation_images(settings, trained_on, checkpoint)
    quantizer = _quantizer(settings)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".work", dir=out.parent)
    with scratch as folder:
        onnx = _export(checkpoint, calibration, Path(folder) / "fp32")
        if quantizer is not None:
            batches = _batches(checkpoint, calibration, settings, say)
            onnx = quantizer.quantize(onnx, batches, Path(folder) / "int8")
        encoded = None if evaluation is None else _encoded(evaluation, settings, labelled=checkpoint.num_classes > 0)
        return write_bundle(onnx, out, target=target, gates=limits, evaluation=encoded, overwrite=overwrite)


def _export(checkpoint: Checkpoint, images: Images, out: Path) -> Artifact:
    from edgemim.export.onnx import export_checkpoint

    count = min(_GOLDEN, len(images))
    pixels = np.stack([checkpoint.preprocess.pixels(images.image(i)) for i in _spread(count, len(images))])
    return export_checkpoint(checkpoint, out, pixels=pixels)


def _quantizer(settings: BundleSettings) -> Any:
    """The quantizer, looked up before the export so that an unknown or missing one costs no time; None for fp32."""
    if settings.precision != "int8":
        return None
    from edgemim.quantize.quantizers import QUANTIZERS

    return QUANTIZERS.get(settings.quantizer)()


def _batches(checkpoint: Checkpoint, images: Images, settings: BundleSettings, say: Say) -> Calibration:
    from edgemim.quantize.calibration import choose_calibration

    batches = choose_calibration(images, checkpoint.preprocess, count=settings.calibration_count, seed=settings.seed)
    for note in batches.notes:
        say(note)
    return batches


@dataclass(frozen=True, kw_only=True)
class _Data:
    """The data set of the last training stage, and the seed by which test images were held out."""

    spec: str = ""
    seed: int = 0


def _trained_on(checkpoint: Checkpoint) -> _Data:
    for record in reversed(checkpoint.artifact.provenance):
        if isinstance(record.get("data"), Mapping):
            return _Data(spec=str(record["data"]["spec"]), seed=int(record["settings"]["seed"]))
    return _Data()


def _calibration_images(settings: BundleSettings, trained_on: _Data) -> Images:
    spec = settings.calibration or trained_on.spec
    if not spec:
        raise ConfigError(
            "there are no images to calibrate on and compare with: the checkpoint does not say what it was "
            "trained on; give some with --calibration DATA"
        )
    return open_splits(spec, seed=trained_on.seed).train


def _evaluation_images(settings: BundleSettings, trained_on: _Data, checkpoint: Checkpoint) -> Images | None:
    spec = settings.evaluation or trained_on.spec
    if not spec or spec == "none":
        return None
    images = open_splits(spec, seed=trained_on.seed).test
    classes = checkpoint.num_classes
    if settings.evaluation and classes and images.num_classes is not None and images.num_classes > classes:
        raise DataError(f"{spec} has {images.num_classes} classes, the checkpoint {classes}; they do not fit")
    own, theirs = checkpoint.class_names, images.class_names
    if own is not None and theirs is not None and own != theirs:
        shown = [", ".join(names[:5]) + (", ..." if len(names) > 5 else "") for names in (theirs, own)]
        raise DataError(f"{spec} has the classes {shown[0]}, the checkpoint {shown[1]}; evaluate on the same ones")
    return images


def _encoded(images: Images, settings: BundleSettings, *, labelled: bool) -> Iterator[tuple[bytes, int | None]]:
    """Encoded images and labels, in a seeded order when not all are taken."""
    rows: Sequence[int] = range(len(images))
    if len(images) > settings.evaluation_count:
        chosen = np.random.default_rng(settings.seed).permutation(len(images))[: settings.evaluation_count]
        rows = sorted(int(i) for i in chosen)
    labels: Any = images.labels
    usable = labelled and labels is not None and not (np.asarray(labels) == UNLABELLED).any()
    for i in rows:
        yield images.encoded(i), int(labels[i]) if usable else None


def _spread(count: int, total: int) -> list[int]:
    return [i * total // count for i in range(count)]
