"""The whole story once: teacher, student, the same student without a teacher, INT8, check, one table.

Both students are trained by the same steps (masked pretraining, then fine-tuning) on the same images in the same
order; the only difference is the teacher.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from edgemim.artifact import load_artifact, refuse_existing, write_text, writing
from edgemim.config import build, load_recipe, merge
from edgemim.data.open import open_splits
from edgemim.pipeline.make_bundle import BundleSettings, Say, make_bundle
from edgemim.pipeline.plan import Plan, input_geometry, make_plan
from edgemim.runtime.check import check_bundle
from edgemim.runtime.latency.protocol import LEAST_RUNS
from edgemim.runtime.outcome import refuse_if_nothing_ran
from edgemim.training.feed.inputs import decoded
from edgemim.training.finetune import FinetuneSettings, finetune
from edgemim.training.pretrain import pretrain
from edgemim.training.settings.run import RunSettings

RESULT = "quickstart.json"


def run_quickstart(
    data: str, out: Path, *, minutes: float, seed: int, say: Say, overwrite: bool = False
) -> dict[str, Any]:
    """Run every stage in `out`, write `quickstart.json` there, and return it.

    Args:
        data: Labelled images.
        out: Folder to write; the stages' folders lie in it.
        minutes: About how long all of it may take; the numbers of steps follow from measured speed.
        seed: Of every random number.
        say: Called with a line for each stage.
        overwrite: Replace an earlier quickstart.

    Returns:
        What `edgemim quickstart --json` prints.

    Raises:
        DataError: The images have no labels.
        OutputError: `out` exists, or cannot be written.
    """
    started = time.monotonic()
    refuse_existing(out, overwrite=overwrite)
    splits = open_splits(data, seed=seed)
    splits.train.require_labels("quickstart")
    splits.test.require_labels("quickstart")
    side = input_geometry(splits)["img_size"]
    for images in (splits.train, splits.test):  # a broken image is found before there is a folder
        decoded(images, (side, side))
    spent = time.monotonic() - started
    plan = make_plan(splits, digits=data == "digits", minutes=minutes, spent=spent, seed=seed, say=say)
    _prepare(out)
    stages = _Stages(data, out, plan, seed)
    with _threads(plan.threads):
        top1 = stages.train(say)
    say("4/5 export, INT8")
    make_bundle(out / "student", out / "bundle", _bundle_settings(), say=say)
    make_bundle(out / "teacher", out / "teacher-bundle", _bundle_settings(precision="fp32"), say=say)
    say("5/5 check on this machine")
    seconds, runs = plan.check_seconds, LEAST_RUNS[99]
    report = check_bundle(out / "bundle", out / "bundle-report", seconds=seconds, runs=runs)
    teacher_report = check_bundle(out / "teacher-bundle", out / "teacher-bundle-report", seconds=seconds, runs=runs)
    for one in (report, teacher_report):
        refuse_if_nothing_ran(one)
    int8, fp32 = (_measured(_best(report, precision)) for precision in ("int8", "fp32"))
    result = {
        "data": data,
        "train_images": len(splits.train),
        "test_images": len(splits.test),
        "steps": plan.steps(),
        "teacher": {"top1": top1["teacher"], "parameters": _parameters(out / "teacher")}
        | {k: v for k, v in _measured(_best(teacher_report, "fp32")).items() if k != "top1"},
        "student": {"top1": top1["student"], "parameters": _parameters(out / "student")},
        "student_without_teacher": {"top1": top1["student-alone"], "parameters": _parameters(out / "student-alone")},
        "int8": int8,
        "fp32": fp32,
        "chosen": report["chosen"],
        "verdict": report["verdict"],
        "device": report["device"],
        "bundle": str(out / "bundle"),
        "report": str(out / "bundle-report"),
        "passed": report["passed"],
        "seconds": round(time.monotonic() - started, 1),
    }
    write_text(out / RESULT, json.dumps(result, indent=2) + "\n")
    return result


class _Stages:
    """The training stages with what they have in common."""

    def __init__(self, data: str, out: Path, plan: Plan, seed: int) -> None:
        self.common = {"data": data, "seed": seed, "augmentation": dict(plan.augmentation)}
        self.out = out
        self.plan = plan

    def train(self, say: Say) -> dict[str, float]:
        """Teacher, student, and the same student without the teacher; returns their top-1 by folder."""
        plan, top1 = self.plan, {}
        say(f"1/5 teacher: MAE pretraining ({plan.teacher_steps} steps), fine-tuning ({plan.teacher_finetune_steps})")
        teacher = self.pretrain("teacher-pretrained", "mae-small", plan.teacher, plan.teacher_steps)
        top1["teacher"] = self.finetune(teacher, "teacher", plan.teacher_finetune_steps)
        say(f"2/5 student: dmae from the teacher ({plan.student_steps}), fine-tuning ({plan.student_finetune_steps})")
        student = self.pretrain("student-distilled", "dmae-small", plan.student, plan.student_steps, teacher=teacher)
        top1["student"] = self.finetune(student, "student", plan.student_finetune_steps)
        say("3/5 the same student, the same steps, without a teacher")
        alone = self.pretrain("student-alone-pretrained", "mae-small", plan.student, plan.student_steps)
        top1["student-alone"] = self.finetune(alone, "student-alone", plan.student_finetune_steps)
        return top1

    def pretrain(
        self, name: str, recipe: str, backbone: Mapping[str, Any], steps: int, *, teacher: Path | None = None
    ) -> Path:
        """Pretrain or, with a teacher, distil; returns the checkpoint's folder."""
        values = merge(load_recipe(recipe), self.common | {"training": self.plan.training(steps)})
        values = merge(values, {"evaluation": {"probe": "none"}, "method": dict(self.plan.decoder)})
        values["backbone"] = dict(backbone)
        if teacher is not None:
            values["teacher"] = {"source": str(teacher)}
        stage = "distill" if teacher is not None else "pretrain"
        pretrain(build(RunSettings, values), self.out / name, stage=stage)
        return self.out / name

    def finetune(self, checkpoint: Path, name: str, steps: int) -> float:
        """Fine-tune a checkpoint; returns its top-1 on the test images."""
        values = merge(load_recipe("finetune-small"), self.common | {"training": self.plan.training(steps)})
        values["init"] = str(checkpoint)
        result = finetune(build(FinetuneSettings, values), self.out / name)
        top1: float = result["top1"]
        return top1


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Torch with `count` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _prepare(out: Path) -> None:
    """An empty folder that a later quickstart may replace."""
    with writing(out):
        if out.exists():
            shutil.rmtree(out)
        out.mkdir(parents=True)
        write_text(out / RESULT, json.dumps({"finished": False}) + "\n")


def _bundle_settings(precision: str = "int8") -> BundleSettings:
    return build(
        BundleSettings,
        {"target": "x86", "precision": precision, "evaluation_count": 10_000, "gates": {"top1.max_drop": 0.01}},
    )


def _best(report: Mapping[str, Any], precision: str) -> Mapping[str, Any]:
    """The fastest row of a precision, whatever its gates say; one that was not measured where none was."""
    rows = [r for r in report["candidates"] if r["precision"] == precision]
    best: Mapping[str, Any] = min(rows, key=lambda r: r["latency"]["p50_ms"] if r["latency"] else math.inf)
    return best


def _measured(row: Mapping[str, Any]) -> dict[str, Any]:
    accuracy, latency = row["accuracy"] or {}, row["latency"] or {}
    return {
        "top1": accuracy.get("top1"),
        "agreement": accuracy.get("agreement"),
        "backend": row["backend"],
        "p50_ms": latency.get("p50_ms"),
        "p99_ms": latency.get("p99_ms"),
        "size_bytes": row["size_bytes"],
    }


def _parameters(checkpoint: Path) -> int:
    parameters: int = load_artifact(checkpoint, "checkpoint").content["parameters"]
    return parameters
