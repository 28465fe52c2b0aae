"""From a checkpoint to what each of its layers costs in INT8."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgemim.artifact import Artifact, create_artifact, load_artifact, refuse_existing, write_bytes, write_text
from edgemim.errors import ConfigError, MissingDependencyError
from edgemim.models.checkpoint import load_checkpoint
from edgemim.pipeline.calibration import calibration_batches, export_float
from edgemim.pipeline.scratch import CALIBRATION_STATE, scratch
from edgemim.runtime.device import describe_device
from edgemim.runtime.targets import TARGETS

if TYPE_CHECKING:
    from edgemim.quantize.quantizers.ptq import Prepared

Say = Callable[[str], None]
Progress = Callable[[int, int], None]

_FILE, _PICTURE = "sensitivity.json", "sensitivity.png"


@dataclass(frozen=True, kw_only=True)
class SensitivitySettings:
    """What is measured.

    Args:
        target: Whose integer types hold.
        placement: Whose units are measured. `everything` also has the patch embedding and the head; its residual
            additions are left in float, since next to their noise that of no other layer would be seen.
        calibration: Data set; empty: the one that the checkpoint was trained on.
        calibration_count: Images to calibrate on.
        images: How many of them the outputs are compared on.
        seed: Of the choice of images.
    """

    target: str = "x86"
    placement: str = "everything"
    calibration: str = ""
    calibration_count: int = 300
    images: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ConfigError(f"images must be at least 1; got {self.images}")


def find_sensitivity(
    checkpoint_path: Path,
    out: Path,
    settings: SensitivitySettings,
    *,
    say: Say,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Artifact:
    """Export, calibrate, measure every unit, and write `sensitivity.json` and `sensitivity.png`.

    The calibration and variants that are done are kept beside `out` until the end; the same call goes on there.

    Raises:
        ConfigError: Unknown target or placement; no data to calibrate on.
        EdgemimError: The model cannot be exported, or nothing of it becomes INT8.
        OutputError: `out` exists, or cannot be written.
    """
    from edgemim.quantize.placement import PLACEMENTS
    from edgemim.quantize.quantizers.ptq import PTQ
    from edgemim.quantize.sensitivity import measure_sensitivity

    refuse_existing(out, overwrite=overwrite)
    out = Path(os.path.abspath(out))  # what `.` is, is replaced
    target, placement = TARGETS.get(settings.target), PLACEMENTS.find(settings.placement)
    checkpoint = load_checkpoint(checkpoint_path)
    batches = calibration_batches(
        checkpoint, settings.calibration, count=settings.calibration_count, seed=settings.seed, say=say
    )
    with scratch(out, anew=("onnx",)) as folder:
        onnx = export_float(checkpoint, batches.images, folder / "onnx")
        say(f"calibrating on {len(batches)} images")
        prepared = PTQ(placements=(placement,)).prepare(
            onnx, batches, target, state=folder / CALIBRATION_STATE, say=say, progress=progress
        )
        recipe = prepared.recipes[placement].without(*_additions(prepared, placement))
        found = measure_sensitivity(
            prepared.model,
            recipe,
            target,
            list(islice(batches, settings.images)),
            classifies=checkpoint.num_classes > 0,
            workers=describe_device().default_threads,
            state=folder / "variants.json",
            progress=progress,
        )
        content = found.to_dict() | {"architecture": checkpoint.architecture, "settings": asdict(settings)}
        with create_artifact(out, "report", overwrite=overwrite) as draft:
            write_text(draft.path(_FILE), json.dumps(content, indent=1) + "\n")
            picture = _picture(found, say)
            if picture is not None:
                write_bytes(draft.path(_PICTURE), picture)
            draft.content = {"report": "sensitivity", "placement": found.placement, "units": len(found.units)}
            draft.provenance = [dict(record) for record in checkpoint.artifact.provenance]
            draft.record("sensitivity", checkpoint=checkpoint.artifact.fingerprint, settings=asdict(settings))
    return load_artifact(out, "report")


def _additions(prepared: Prepared, placement: str) -> list[str]:
    return [unit.name for unit in prepared.placed[placement].units if unit.kind == "add"]


def _picture(found: Any, say: Say) -> bytes | None:
    """The PNG; None, and a remark, where matplotlib is missing."""
    from edgemim.pipeline.sensitivity_picture import draw_sensitivity

    try:
        return draw_sensitivity(found)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "matplotlib":
            raise
        say(f"no picture: {MissingDependencyError('the picture', 'matplotlib', 'report')}")
        return None
