"""What an update of each method costs: seconds, taken in turn in one process, and memory, each in a fresh one.

The weights are random, since the cost does not depend on them; images are random too, since reading and
augmenting them costs every method the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgemim.config import build, load_recipe
from edgemim.methods._base import Batch
from edgemim.models.build import build_backbone
from edgemim.models.checkpoint import CheckpointInfo, save_checkpoint
from edgemim.training.assembly import make_method
from edgemim.training.classification import Classification
from edgemim.training.loop.optimiser import build_optimiser
from edgemim.training.loop.precision import lightning_precision
from edgemim.training.settings.contract import ContractSettings
from edgemim.training.settings.run import RunSettings
from edgemim.training.settings.training import TrainingSettings

from .cifar10 import CLASSES
from .clock import Step, compared, time_in_turn
from .comparison import Preset, Run, Stage
from .memory import peak_memory_mib

FINETUNE = "fine-tuning"
_STEPS_FOR_MEMORY = 5


def student_stage(run: Run) -> Stage:
    """The stage whose updates are the method's own."""
    return next(s for s in reversed(run.stages) if s.kind in ("pretrain", "distill"))


def measure_seconds(runs: Sequence[Run], preset: Preset, *, rounds: int, steps_per_round: int) -> dict[str, Any]:
    """Rows by name, and one for fine-tuning; ratios are to `mae`, which must be among them."""
    with _random_teachers(preset) as teachers:
        steps = {run.name: pretraining_step(student_stage(run), teachers) for run in runs}
        steps[FINETUNE] = finetuning_step(preset)
        return compared(time_in_turn(steps, rounds=rounds, steps_per_round=steps_per_round), "mae")


def measure_memory(run: Run, preset: Preset) -> dict[str, float]:
    """Peak of this process, which should have done nothing else, and what of it came with the first model."""
    before = peak_memory_mib()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with _random_teachers(preset) as teachers:
        step = pretraining_step(student_stage(run), teachers)
        for _ in range(_STEPS_FOR_MEMORY):
            step()
    peak = peak_memory_mib()
    rows = {"peak_mib": round(peak, 1), "above_imports_mib": round(peak - before, 1)}
    if torch.cuda.is_available():
        rows["gpu_peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return rows


def pretraining_step(stage: Stage, teachers: Path) -> Step:
    """Forward, backward and the optimiser of one update of a method."""
    values = dict(stage.settings)
    if stage.teacher:
        values["teacher"] = {"source": str(teachers / (stage.teacher if stage.outside else "student"))}
    settings = build(RunSettings, values)
    method = make_method(settings).to(_device()).train()
    batch = settings.training.batch_size
    images = torch.randn(batch, 3, *method.adapter.size, device=_device())
    return _update(method, Batch(images, index=torch.arange(batch, device=_device())), settings.training)


def finetuning_step(preset: Preset) -> Step:
    """The same of fine-tuning, which costs the same after every method."""
    arguments = {**preset.student, "global_pool": "avg"}
    name, size = str(arguments.pop("name")), int(preset.student["img_size"])
    model = build_backbone(name, arguments, num_classes=CLASSES)
    task = Classification(model, CLASSES, label_smoothing=0.1, mixup=0.0, cutmix=0.0).to(_device()).train()
    images = torch.randn(preset.batch_size, 3, size, size, device=_device())
    labels = torch.randint(CLASSES, (preset.batch_size,), device=_device())
    return _update(task, Batch(images, labels=labels), TrainingSettings(steps=1))


def _update(task: nn.Module, batch: Batch, settings: TrainingSettings) -> Step:
    optimiser = build_optimiser(task, settings)
    rng = torch.Generator(device=_device()).manual_seed(0)
    mixed = lightning_precision(settings.precision).startswith("bf16")

    def step() -> None:
        with torch.autocast(_device().type, torch.bfloat16, enabled=mixed):
            loss: Tensor = task(batch, rng).loss
        loss.backward()
        if settings.clip_grad:
            nn.utils.clip_grad_norm_(task.parameters(), settings.clip_grad)
        optimiser.step()
        optimiser.zero_grad()

    return step


@contextmanager
def _random_teachers(preset: Preset) -> Iterator[Path]:
    """A folder with checkpoints `pretrained` and `finetuned` of the teacher, and `student`."""
    contract = build(ContractSettings, load_recipe("mae-small")["preprocess"])
    with tempfile.TemporaryDirectory() as folder:
        for name, shape, classes in (
            ("pretrained", preset.teacher, 0),
            ("finetuned", preset.teacher, CLASSES),
            ("student", preset.student, 0),
        ):
            arguments = _without_name(shape) | ({"global_pool": "avg"} if classes else {})
            size = int(shape["img_size"])
            info = CheckpointInfo(
                architecture=str(shape["name"]),
                model_args=arguments,
                preprocess=contract.at((size, size)),
                num_classes=classes,
            )
            model = build_backbone(str(shape["name"]), arguments, num_classes=classes)
            save_checkpoint(Path(folder) / name, model, info)
        yield Path(folder)


def _without_name(shape: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in shape.items() if k != "name"}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
