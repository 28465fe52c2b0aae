"""A whole run with images from a disk: `edgemim pretrain` as a user starts it, crops and bookkeeping included."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from edgemim.artifact import load_artifact
from edgemim.config import build
from edgemim.training.pretrain import pretrain
from edgemim.training.settings.run import RunSettings

from .training_cases import ARCHITECTURE, Case


def run_with_real_input(
    case: Case, data: str, *, precision: str, batch_size: int, steps: int, workers: int
) -> dict[str, Any]:
    """Images per second and the share of the time that the run stood waiting for images.

    Args:
        case: Of the method `mae`.
        data: As `edgemim.data.open_splits` takes it.
        precision: `fp32` or `bf16`.
        batch_size, steps: Of the run.
        workers: As `training.workers`.
    """
    assert case.teacher is None
    settings = build(
        RunSettings,
        {
            "data": data,
            "backbone": {
                "name": ARCHITECTURE,
                "img_size": case.size,
                "patch_size": case.patch,
                "embed_dim": case.student.width,
                "depth": case.student.depth,
                "num_heads": case.student.heads,
            },
            "method": {
                "name": "mae",
                "decoder_width": case.decoder.width,
                "decoder_depth": case.decoder.depth,
                "decoder_heads": case.decoder.heads,
            },
            "training": {
                "steps": steps,
                "batch_size": batch_size,
                "precision": precision,
                "workers": workers,
                "picture_steps": steps + 1,
                "compile": "off",
            },
            "evaluation": {"probe": "none"},
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        pretrain(settings, out, stage="pretrain")
        result = load_artifact(out, "checkpoint").provenance[-1]["result"]
    return {
        "case": case.shown,
        "data": Path(data).name,
        "precision": precision,
        "batch_size": batch_size,
        "steps": steps,
        "workers": workers,
        "images_per_s": round(result["images_per_second"], 2),
        "data_wait": round(result["data_wait"], 4),
    }
