"""One run of the comparison, in a process of its own: its stages one after another, each resumable."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edgemim.artifact import MANIFEST
from edgemim.config import build, merge
from edgemim.models.adapters import adapt
from edgemim.models.checkpoint import CheckpointInfo, save_checkpoint
from edgemim.training.assembly import starting_point
from edgemim.training.finetune import FinetuneSettings, finetune
from edgemim.training.loop.precision import lightning_precision
from edgemim.training.loop.seeding import seeded
from edgemim.training.pretrain import pretrain
from edgemim.training.settings.run import RunSettings

from .comparison import Run, Stage
from .machine import describe_machine

_SCORES = {"knn_top1", "linear_top1", "top1"}


def execute(run: Run, *, key: str, work: Path, data: Path, teacher: Path | None, workers: int) -> dict[str, Any]:
    """Do what is left of a run, and say what came out.

    Args:
        run: What to do.
        key: Of the result.
        work: Folder of the run's checkpoints and states.
        data: Folder that `cifar10.write_comparison_data` wrote.
        teacher: Folder of the teacher's run.
        workers: Processes that augment images; 0: this one.
    """
    started = time.monotonic()
    places = _Places(work=work, data=data, teacher=teacher, workers=workers)
    stages = [_stage(stage, places) for stage in run.stages]
    scores = {name: round(value, 6) for stage in stages for name, value in stage["result"].items() if name in _SCORES}
    return {
        "name": run.name,
        "method": run.method,
        "seed": run.seed,
        "key": key,
        **scores,
        "student_updates": run.student_updates,
        "images_seen": sum(stage["images_seen"] for stage in stages if stage["counts"]),
        "precision": lightning_precision(run.stages[-1].settings["training"]["precision"]),
        "threads": torch.get_num_threads(),
        "wall_seconds": round(time.monotonic() - started, 1),
        "stages": stages,
        **describe_machine(),
    }


class _Places:
    """Where the things are that settings only name."""

    def __init__(self, *, work: Path, data: Path, teacher: Path | None, workers: int) -> None:
        self.work = work
        self.data = data
        self.outside = teacher
        self.workers = workers

    def settings(self, stage: Stage) -> dict[str, Any]:
        """The stage's settings with real places."""
        values = merge(stage.settings, {"data": str(self.data), "training": {"workers": self.workers}})
        if stage.init:
            values["init"] = str(self.work / stage.init)
        if stage.teacher:
            folder = self.outside if stage.outside else self.work
            assert folder is not None
            values["teacher"] = {"source": str(folder / stage.teacher)}
        return values


def _stage(stage: Stage, places: _Places) -> dict[str, Any]:
    out = places.work / stage.folder
    values = places.settings(stage)
    if stage.kind == "fresh":
        result: Mapping[str, Any] = _fresh(build(RunSettings, values), out)
    elif stage.kind == "finetune":
        result = finetune(build(FinetuneSettings, values), out, resume=True)
    else:
        result = pretrain(build(RunSettings, values), out, stage=stage.kind, resume=True)
    kept = {k: v for k, v in result.items() if k not in ("checkpoint", "stage", "method")}
    return {
        "stage": stage.kind,
        "folder": stage.folder,
        "init": stage.init,
        "teacher": f"teacher/{stage.teacher}" if stage.outside else stage.teacher,
        "counts": stage.counts,
        "updates": stage.updates,
        "images_seen": stage.updates * int(stage.settings["training"]["batch_size"]),
        "result": kept,
        "settings": dict(stage.settings),
    }


def _fresh(settings: RunSettings, out: Path) -> dict[str, Any]:
    """A checkpoint of the weights with which pretraining with this seed begins."""
    if (out / MANIFEST).exists():
        return {}
    with seeded(settings.seed):
        start = starting_point(settings)
        adapt(start.model, start.contract.size).initialise()
    info = CheckpointInfo(architecture=start.architecture, model_args=start.model_args, preprocess=start.contract)
    save_checkpoint(out, start.model, info)
    return {}


def write_result(file: Path, result: Mapping[str, Any]) -> None:
    """Complete or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    os.replace(draft, file)
