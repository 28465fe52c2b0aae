"""How long a step of each stage takes on this machine, and with how many threads it is fastest."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgemim.config import build, load_recipe
from edgemim.masking.random import RandomMasking
from edgemim.methods import METHODS
from edgemim.methods._base import Batch
from edgemim.models.adapters import adapt
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.build import build_backbone, input_size
from edgemim.models.teachers import Teacher, TeacherOrigin
from edgemim.preprocess import Preprocess
from edgemim.training.classification import Classification
from edgemim.training.loop.precision import lightning_precision

_MEASURED_STEPS = 5


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds per step of each stage, and the number of threads that they were measured with."""

    threads: int
    seconds: Mapping[str, float]


def measure_speed(
    teacher: Mapping[str, Any], student: Mapping[str, Any], decoder: Mapping[str, int], batch_size: int, *, classes: int
) -> Speed:
    """Run a few steps of each stage with one thread and with all, and keep the faster number.

    Models as small as these have too little work in each operation for several threads to share.

    Args:
        teacher, student: Backbone tables: `name` and timm arguments.
        decoder: Decoder settings of the methods.
        batch_size: Images per step.
        classes: Of the fine-tuning stages.
    """
    modules, batch = _stages(teacher, student, decoder, batch_size, classes)
    before = torch.get_num_threads()
    speeds = []
    try:
        for threads in sorted({1, len(os.sched_getaffinity(0))}):
            torch.set_num_threads(threads)
            seconds = {name: _seconds_per_step(module, batch) for name, module in modules.items()}
            speeds.append(Speed(threads=threads, seconds=seconds))
    finally:
        torch.set_num_threads(before)
    return min(speeds, key=lambda speed: sum(speed.seconds.values()))


def _stages(
    teacher: Mapping[str, Any], student: Mapping[str, Any], decoder: Mapping[str, int], batch_size: int, classes: int
) -> tuple[dict[str, nn.Module], Batch]:
    """Untrained stand-ins of the four stages, and a batch for them."""
    contract = Preprocess(size=input_size(_build(teacher), teacher))
    frozen = Teacher(
        adapt(_build(teacher)),
        TeacherOrigin(source="", architecture=str(teacher["name"]), licence="", sha256=None),
        mean=contract.mean,
        std=contract.std,
        student=contract,
    )
    modules = {
        "teacher": _method("mae-small", decoder, adapt(_build(teacher)), None),
        "teacher_finetune": _classifier(teacher, classes),
        "student": _method("dmae-small", decoder, adapt(_build(student)), frozen),
        "student_finetune": _classifier(student, classes),
    }
    images = torch.randn(batch_size, 3, *contract.size)
    batch = Batch(images, torch.randint(0, classes, (batch_size,)))
    return modules, batch


def _build(backbone: Mapping[str, Any], classes: int = 0, **arguments: Any) -> nn.Module:
    own = {k: v for k, v in backbone.items() if k != "name"}
    return build_backbone(str(backbone["name"]), own | arguments, num_classes=classes)


def _method(recipe: str, decoder: Mapping[str, int], adapter: BackboneAdapter, teacher: Teacher | None) -> nn.Module:
    values = {**load_recipe(recipe)["method"], **decoder}
    cls = METHODS.get(values.pop("name"))
    method: nn.Module = cls(adapter, RandomMasking(), build(cls.Settings, values), teacher)
    return method


def _classifier(backbone: Mapping[str, Any], classes: int) -> nn.Module:
    model = _build(backbone, classes, global_pool="avg")
    return Classification(model, classes, label_smoothing=0.1, mixup=0.0, cutmix=0.0)


def _seconds_per_step(module: nn.Module, batch: Batch) -> float:
    """Seconds of one step, data and optimiser included by a margin; the best of a few after one for warming up.

    The best, since whatever else runs on the machine only ever makes a step slower.
    """
    bf16 = lightning_precision("fastest") == "bf16-mixed"
    rng = torch.Generator().manual_seed(0)
    times = []
    for _ in range(1 + _MEASURED_STEPS):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = module(batch, rng).loss
        loss.backward()
        times.append(time.perf_counter() - started)
    return 1.2 * min(times[1:]) + 0.006
