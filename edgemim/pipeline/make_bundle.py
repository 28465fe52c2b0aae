"""From a checkpoint to a bundle: export, quantize or search, and pack what the device needs to check it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgemim.artifact import Artifact, refuse_existing
from edgemim.data.images import Images
from edgemim.errors import ConfigError, DataError
from edgemim.models.checkpoint import Checkpoint, load_checkpoint
from edgemim.pipeline.auto import Auto, Evidence, budget, choose_on_this_machine, search_flavours
from edgemim.pipeline.calibration import calibration_batches, calibration_images, export_float, golden_rows
from edgemim.pipeline.evaluation import encoded, evaluation_images, gallery_images, has_labels, is_labelled
from edgemim.pipeline.host_check import build_engines, check_candidates, require_builder
from edgemim.pipeline.quantizer import choose_quantizer
from edgemim.pipeline.scratch import CALIBRATION_STATE, scratch
from edgemim.runtime.bundle import write_bundle
from edgemim.runtime.gates import check_limits
from edgemim.runtime.targets import TARGETS

# In the scratch folder: what every call makes anew, the same each time.
_MADE_ANEW = ("float", "int8", "batch", "pixels", "ahead")

Say = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class BundleSettings:
    """What goes into a bundle.

    Args:
        target: Name of the target.
        precision: `int8`: the target's float flavours and INT8 candidates; `float`: without the latter; `fp32`: only
            that.
        quantizer: Name of the quantizer.
        ranges: Name of its range estimator; empty: its own default.
        placements: Names of those to make INT8 flavours of, or to search among; empty: those that can be right for the
            model.
        calibration: Data set of the calibration images; empty: the one that the checkpoint was trained on.
        calibration_count: Images to calibrate on.
        evaluation: Data set whose test split travels in the bundle; empty: the one the checkpoint was trained on;
            `none`: no evaluation images.
        evaluation_count: Largest number of evaluation images.
        gallery: Data set whose training images travel in the bundle, to look for neighbours of the evaluation images
            in; empty: none.
        gallery_count: Largest number of gallery images.
        gates: Limits that `check` holds every candidate to.
        allow_unmeasured: Those that it keeps where a device cannot measure them.
        max_drop: `auto`: largest loss of top-1 (a share) where there are labels; without, the mean cosine must be 0.99,
            and the k-NN agreement 0.95 where there is a gallery.
        minutes: `auto`: no round is begun that would end after so many.
        threads: `auto`: of one inference; 0: the physical cores.
        input: `pixels`: the graphs take uint8 [B, H, W, 3] and normalise it; `float`: normalised float32 [B, 3, H, W].
        output: `head`: logits, or the embedding of a model without classes; `tokens`: patch tokens beside it.
        batch: Images per run.
        seed: Of the choice of images.
    """

    target: str = "x86"
    precision: Literal["fp32", "float", "int8", "auto"] = "int8"
    quantizer: str = "ptq"
    ranges: str = ""
    placements: tuple[str, ...] = ()
    calibration: str = ""
    calibration_count: int = 300
    evaluation: str = ""
    evaluation_count: int = 2000
    gallery: str = ""
    gallery_count: int = 1000
    gates: dict[str, float] = field(default_factory=dict)
    allow_unmeasured: tuple[str, ...] = ()
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
        if not self.quantizes and (self.ranges or self.placements):
            raise ConfigError(f"--precision {self.precision} quantizes nothing; got --ranges or --placement with it")

    @property
    def quantizes(self) -> bool:
        """Whether INT8 candidates are made."""
        return self.precision not in ("fp32", "float")


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

    Calibration and finished rounds of the search lie beside `out` until the bundle is written; the same call goes on
    there.

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
        ConfigError: Unknown target, quantizer, ranges, placement or gate, or a combination that cannot be; no data to
            calibrate on.
        DataError: `auto` has nothing to compare candidates on.
        EdgemimError: The model cannot be exported or quantized; nothing is written then.
    """
    refuse_existing(out, overwrite=overwrite)
    target = TARGETS.get(settings.target)
    require_builder(target)
    limits = check_limits(settings.gates)
    checkpoint = load_checkpoint(checkpoint_path)
    images = calibration_images(checkpoint, settings.calibration, seed=settings.seed)
    evidence = _evidence(checkpoint, settings)
    quantizer = _quantizer(settings)
    if settings.precision == "auto":
        limits = _budget(settings, limits, evidence)
    with scratch(out, anew=_MADE_ANEW) as folder:
        flavours = ("fp32",) if settings.precision == "fp32" else target.flavours
        onnx = export_float(
            checkpoint, images, folder / "float", output=settings.output, flavours=flavours, form=target.form
        )
        auto = Auto(
            minutes=settings.minutes, threads=settings.threads, allow_unmeasured=tuple(settings.allow_unmeasured)
        )
        found: dict[str, Any] | None = None
        if settings.quantizes:
            batches = calibration_batches(
                checkpoint, settings.calibration, count=settings.calibration_count, seed=settings.seed, say=say
            )
            if evidence is not None and settings.precision == "auto":
                onnx, found = search_flavours(
                    onnx,
                    batches,
                    quantizer,
                    evidence,
                    folder,
                    target=target,
                    limits=limits,
                    auto=auto,
                    say=say,
                    progress=progress,
                )
            else:
                state = folder / CALIBRATION_STATE
                onnx = quantizer.quantize(
                    onnx, batches, folder / "int8", target=target, state=state, say=say, progress=progress
                )
        onnx = _fit_inputs(onnx, settings, folder)
        choice = None
        if found is not None and evidence is not None:
            say("measuring what is left once more, side by side")
            choice = found | choose_on_this_machine(
                onnx, evidence, folder, target=target, limits=limits, auto=auto, progress=progress
            )
        return write_bundle(
            onnx,
            out,
            target=target,
            golden=[images.encoded(row) for row in golden_rows(images)],
            gates=limits,
            allow_unmeasured=settings.allow_unmeasured,
            evaluation=None if evidence is None else evidence.evaluation(),
            gallery=None if evidence is None or evidence.gallery is None else evidence.gallery(),
            choice=choice,
            host_check=check_candidates(onnx, target, say=say) if target.is_nvidia else None,
            engines=build_engines(onnx, target, folder / "ahead") if target.builds_ahead else (),
            overwrite=overwrite,
        )


def _evidence(checkpoint: Checkpoint, settings: BundleSettings) -> Evidence | None:
    """The evaluation images and the gallery; None if there is nothing to evaluate on."""
    images = evaluation_images(checkpoint, settings.evaluation)
    if images is None:
        if settings.gallery:
            raise ConfigError(
                "a gallery is for evaluation images, and there are none; give some with --evaluation DATA"
            )
        return None
    labelled = has_labels(images, checkpoint)
    others = gallery_images(checkpoint, settings.gallery) if settings.gallery else None
    return Evidence(
        evaluation=lambda: encoded(images, count=settings.evaluation_count, seed=settings.seed, labelled=labelled),
        gallery=None if others is None else lambda: _gallery(others, settings),
        labelled=labelled,
    )


def _gallery(images: Images, settings: BundleSettings) -> Iterator[tuple[bytes, int | None]]:
    return encoded(images, count=settings.gallery_count, seed=settings.seed, labelled=is_labelled(images))


def _budget(settings: BundleSettings, limits: Mapping[str, float], evidence: Evidence | None) -> dict[str, float]:
    """What a candidate of `auto` must keep."""
    if settings.batch > 1:
        raise ConfigError(f"--precision auto measures one image per run; got --batch {settings.batch}")
    if evidence is None:
        raise DataError("--precision auto compares candidates on evaluation images; give some with --evaluation DATA")
    return check_limits(budget(limits, evidence, max_drop=settings.max_drop))


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
    """None if nothing is quantized."""
    if not settings.quantizes:
        return None
    return choose_quantizer(
        settings.quantizer,
        ranges=settings.ranges,
        placements=settings.placements,
        search=settings.precision == "auto",
    )
