"""From a checkpoint to a bundle: export, quantize or search, and pack what the device needs to check it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgemim.artifact import Artifact, refuse_existing, writing
from edgemim.errors import ConfigError, DataError
from edgemim.models.checkpoint import Checkpoint, load_checkpoint
from edgemim.pipeline.auto import Auto, budget, choose_on_this_machine, search_flavours
from edgemim.pipeline.calibration import calibration_batches, calibration_images, export_float, golden_rows
from edgemim.pipeline.evaluation import encoded, evaluation_images, has_labels
from edgemim.runtime.bundle import write_bundle
from edgemim.runtime.gates import check_limits
from edgemim.runtime.targets import TARGETS

Say = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class BundleSettings:
    """What goes into a bundle.

    Args:
        target: Name of the target.
        precision: `int8`: the target's float flavours and INT8 candidates; `fp32`: only that.
        quantizer: Name of the quantizer.
        calibration: Data set of the calibration images; empty: the one that the checkpoint was trained on.
        calibration_count: Images to calibrate on.
        evaluation: Data set whose test split travels in the bundle; empty: the one the checkpoint was trained on;
            `none`: no evaluation images.
        evaluation_count: Largest number of evaluation images.
        gates: Limits that `check` holds every candidate to.
        max_drop: `auto`: largest loss of top-1 (a share) where there are labels; without, the mean cosine must be 0.99.
        minutes: `auto`: no round is begun that would end after so many.
        threads: `auto`: of one inference; 0: the physical cores.
        input: `pixels`: the graphs take uint8 [B, H, W, 3] and normalise it; `float`: normalised float32 [B, 3, H, W].
        output: `head`: logits, or the embedding of a model without classes; `tokens`: patch tokens beside it.
        batch: Images per run.
        seed: Of the choice of images.
    """

    target: str = "x86"
    precision: Literal["fp32", "int8", "auto"] = "int8"
    quantizer: str = "ptq"
    calibration: str = ""
    calibration_count: int = 300
    evaluation: str = ""
    evaluation_count: int = 2000
    gates: dict[str, float] = field(default_factory=dict)
    max_drop: float = 0.005
    minutes: float = 20.0
    threads: int = 0
    input: Literal["pixels", "float"] = "pixels"
    output: Literal["head", "tokens"] = "head"
    batch: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"batch must be at least 1; got {self.batch}")


def make_bundle(
    checkpoint_path: Path,
    out: Path,
    settings: BundleSettings,
    *,
    say: Say,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Artifact:
    """Export a checkpoint, quantize it or search on this machine, and write a bundle.

    With `auto` the rounds that are done lie beside `out` until the bundle is written; the same call goes on there.

    Args:
        checkpoint_path: A checkpoint folder.
        out: The bundle's folder.
        settings: What goes into it.
        say: Called with a line for the user, such as a warning about the calibration images.
        overwrite: Replace a folder that edgemim wrote.
        progress: Called with (steps done, steps in all) of whatever is being measured.

    Returns:
        The bundle; with `auto` its content has `choice`: what won on this machine, and why.

    Raises:
        ConfigError: Unknown target, quantizer or gate; no data to calibrate on.
        DataError: `auto` has nothing to compare candidates on.
        EdgemimError: The model cannot be exported or quantized; nothing is written then.
    """
    refuse_existing(out, overwrite=overwrite)
    target = TARGETS.get(settings.target)
    limits = check_limits(settings.gates)
    checkpoint = load_checkpoint(checkpoint_path)
    images = calibration_images(checkpoint, settings.calibration, seed=settings.seed)
    evaluation = _Evaluation.of(checkpoint, settings)
    quantizer = _quantizer(settings)
    if settings.precision == "auto":
        limits = _budget(settings, limits, evaluation)
    with _scratch(out, keep=settings.precision == "auto") as folder:
        flavours = ("fp32",) if settings.precision == "fp32" else target.flavours
        onnx = export_float(checkpoint, images, folder / "float", output=settings.output, flavours=flavours)
        auto = Auto(minutes=settings.minutes, threads=settings.threads)
        found: dict[str, Any] = {}
        if settings.precision != "fp32":
            batches = calibration_batches(
                checkpoint, settings.calibration, count=settings.calibration_count, seed=settings.seed, say=say
            )
            if quantizer is not None:
                onnx = quantizer.quantize(onnx, batches, folder / "int8", target=target)
            else:
                onnx, found = search_flavours(
                    onnx,
                    batches,
                    evaluation.again,
                    folder,
                    target=target,
                    limits=limits,
                    auto=auto,
                    say=say,
                    progress=progress,
                )
        onnx = _fit_inputs(onnx, settings, folder)
        choice = None
        if settings.precision == "auto":
            say("measuring what is left once more, side by side")
            choice = found | choose_on_this_machine(
                onnx, evaluation.again, folder, target=target, limits=limits, auto=auto, progress=progress
            )
        return write_bundle(
            onnx,
            out,
            target=target,
            golden=[images.encoded(row) for row in golden_rows(images)],
            gates=limits,
            evaluation=evaluation.again() if evaluation.there else None,
            choice=choice,
            overwrite=overwrite,
        )


@dataclass(frozen=True, kw_only=True)
class _Evaluation:
    """The evaluation images, as often as they are wanted."""

    there: bool
    labelled: bool
    again: Callable[[], Iterable[tuple[bytes, int | None]]]

    @classmethod
    def of(cls, checkpoint: Checkpoint, settings: BundleSettings) -> _Evaluation:
        images = evaluation_images(checkpoint, settings.evaluation)
        if images is None:
            return cls(there=False, labelled=False, again=tuple)
        labelled = has_labels(images, checkpoint)
        return cls(
            there=True,
            labelled=labelled,
            again=lambda: encoded(images, count=settings.evaluation_count, seed=settings.seed, labelled=labelled),
        )


def _budget(settings: BundleSettings, limits: Mapping[str, float], evaluation: _Evaluation) -> dict[str, float]:
    """What a candidate of `auto` must keep."""
    if settings.batch > 1:
        raise ConfigError(f"--precision auto measures one image per run; got --batch {settings.batch}")
    if not evaluation.there:
        raise DataError("--precision auto compares candidates on evaluation images; give some with --evaluation DATA")
    return check_limits(budget(limits, max_drop=settings.max_drop, labelled=evaluation.labelled))


@contextmanager
def _scratch(out: Path, *, keep: bool) -> Iterator[Path]:
    """A folder beside `out`; with `keep` it has a fixed name, and stays if something fails, for the next call."""
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        if not keep:
            temporary = tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".work", dir=out.parent)
    if not keep:
        with temporary as name:
            yield Path(name)
        return
    folder = out.parent / f".{out.name}.search"
    with writing(folder):
        folder.mkdir(exist_ok=True)
        # Made anew by every call, and the same each time; the rounds stay.
        for name in ("float", "pixels"):
            shutil.rmtree(folder / name, ignore_errors=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _fit_inputs(onnx: Artifact, settings: BundleSettings, folder: Path) -> Artifact:
    """Batch and kind of input, last of all: quantizers take one image of normalised floats at a time."""
    from edgemim.export.batch import fix_batch
    from edgemim.export.pixels import accept_pixels

    if settings.batch > 1:
        onnx = fix_batch(onnx, folder / "batch", batch=settings.batch)
    if settings.input == "pixels":
        onnx = accept_pixels(onnx, folder / "pixels")
    return onnx


def _quantizer(settings: BundleSettings) -> Any:
    """The quantizer, looked up before the export so that an unknown or missing one costs no time; None if not INT8."""
    if settings.precision != "int8":
        return None
    from edgemim.quantize.quantizers import QUANTIZERS

    return QUANTIZERS.get(settings.quantizer)()
