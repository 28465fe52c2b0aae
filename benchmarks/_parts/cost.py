"""What an update of each method costs: seconds, taken in turn in one process, and memory, each in a fresh one.

The weights are random, since the cost does not depend on them; images are random too. To read and augment them is left
out: it costs every method the same, but for those that take a second crop of each image. What a method does beside its
updates, looking at all training images now and then, is part of their cost, in equal shares.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from edgemim.config import build, load_recipe, merge
from edgemim.methods._base import Batch, Method
from edgemim.models.build import build_backbone
from edgemim.models.checkpoint import CheckpointInfo, save_checkpoint
from edgemim.preprocess import Pixels
from edgemim.training.assembly import make_method
from edgemim.training.classification import Classification
from edgemim.training.feed.augmentation import Augmentation
from edgemim.training.feed.images import AugmentedImages
from edgemim.training.loop.module import TrainingModule
from edgemim.training.loop.optimiser import build_optimiser
from edgemim.training.loop.precision import lightning_precision
from edgemim.training.loop.remembering import RefreshMemory, Remembers
from edgemim.training.settings.contract import ContractSettings
from edgemim.training.settings.run import RunSettings
from edgemim.training.settings.training import TrainingSettings

from .cifar10 import CLASSES
from .clock import Step, compared, time_in_turn
from .comparison import Run, Stage, is_convnet
from .memory import peak_memory_mib
from .presets import SIZE, Preset

FINETUNE = "fine-tuning"
FINETUNE_CONVNET = "fine-tuning, convnet"
_STEPS_FOR_MEMORY = 5
# What a method looks at is timed on so many batches of images.
_BATCHES_TO_LOOK_AT = 4


def student_stage(run: Run) -> Stage:
    """The stage whose updates are the method's own."""
    return next(s for s in reversed(run.stages) if s.kind in ("pretrain", "distill"))


def measure_seconds(runs: Sequence[Run], preset: Preset, *, rounds: int, steps_per_round: int) -> dict[str, Any]:
    """Rows by name, and those of fine-tuning; ratios are to `mae`, which must be among them."""
    with _random_teachers(preset) as teachers:
        works = {run.name: Work(student_stage(run), teachers, preset) for run in runs}
        steps: dict[str, Step] = {name: work.update for name, work in works.items()}
        steps |= {_looking(name): work.look for name, work in works.items() if work.looks}
        steps |= {FINETUNE: finetuning_step(preset, preset.student)}
        steps |= {FINETUNE_CONVNET: finetuning_step(preset, preset.convnet)}
        seconds = time_in_turn(steps, rounds=rounds, steps_per_round=steps_per_round)
    own = {
        name: spread_looks(seconds, name, preset, looks=work.looks, images=len(work.images))
        for name, work in works.items()
        if work.looks
    }
    convnets = {FINETUNE_CONVNET, *(name for name in works if is_convnet(name))}
    return {
        name: {"student": "convnet" if name in convnets else "vit"} | row | own.get(name, {})
        for name, row in compared(seconds, "mae").items()
    }


def spread_looks(
    seconds: dict[str, list[float]], name: str, preset: Preset, *, looks: int, images: int
) -> dict[str, Any]:
    """Add to a method's updates the time in which it looks at all training images, and say what was added.

    Args:
        seconds: By round, of an update of the method, to which is added, and of a look, which is taken out.
        name: Of the method.
        preset: Says how many images and updates a run has.
        looks: In a run.
        images: That were looked at when it was timed.
    """
    whole = [taken * preset.images / images for taken in seconds.pop(_looking(name))]
    alone = seconds[name]
    seconds[name] = [update + looks * look / preset.updates for update, look in zip(alone, whole, strict=True)]
    return {
        "alone_s": round(statistics.median(alone), 6),
        "looks": looks,
        "look_s": round(statistics.median(whole), 6),
    }


def measure_memory(run: Run, preset: Preset) -> dict[str, float]:
    """Peak of this process, which should have done nothing else, and what of it came with the first model."""
    before = peak_memory_mib()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with _random_teachers(preset) as teachers:
        work = Work(student_stage(run), teachers, preset)
        for _ in range(_STEPS_FOR_MEMORY):
            work.update()
    peak = peak_memory_mib()
    rows = {"peak_mib": round(peak, 1), "above_imports_mib": round(peak - before, 1)}
    if torch.cuda.is_available():
        rows["gpu_peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return rows


class Work:
    """A method in the middle of its run, on random images.

    Args:
        stage: Whose method it is.
        teachers: Folder with the checkpoints of `_random_teachers`.
        preset: Of the run.

    Attributes:
        method: See `stage`.
        images: The training set, made smaller.
        looks: How often in a run the method looks at all training images, beside its updates.
    """

    def __init__(self, stage: Stage, teachers: Path, preset: Preset) -> None:
        values = merge(stage.settings, {"training": {"workers": 0}})
        if stage.teacher:
            values["teacher"] = {"source": str(teachers / (stage.teacher if stage.outside else "student"))}
        settings = build(RunSettings, values)
        self.method = make_method(settings).to(_device()).train()
        size, batch = self.method.adapter.size, settings.training.batch_size
        augmentation = Augmentation(size=size, settings=settings.augmentation, seed=0)
        self.images = AugmentedImages(
            _RandomImages(_BATCHES_TO_LOOK_AT * batch), None, augmentation, crops=self.method.crops
        )
        self.module = TrainingModule(
            self.method,
            settings.training,
            settings.preprocess.at(size),
            steps=preset.updates,
            seed=0,
            images=preset.images,
        ).to(_device())
        self.looks = 0
        if self.method.remembers:
            # Rows of ones until it has looked, which a masking draws from as it would from others.
            self.method.reserve(len(self.images), "0" * 64)
            self.looks = looks_in_a_run(cast(Remembers, self.method), preset)
        raw = self.images.__getitems__([(0, index) for index in range(batch)])
        made = self.module.batch({name: value.to(_device()) for name, value in raw.items()})
        self.update = _update(self.method, replace(made, epoch_share=0.5, epoch=preset.epochs / 2), settings.training)

    def look(self) -> None:
        """The method looks at all images, as it does now and then in a run."""
        RefreshMemory(self.images).refresh(self.module, _arithmetic(self.module.settings))


def looks_in_a_run(method: Remembers, preset: Preset) -> int:
    """After how many updates of a run the method looks at all images; not after the last one."""
    epochs = [step * preset.batch_size / preset.images for step in range(preset.updates)]
    return sum(method.is_due(before, after) for before, after in itertools.pairwise(epochs))


def finetuning_step(preset: Preset, shape: Mapping[str, Any]) -> Step:
    """An update of fine-tuning a backbone, which costs the same after every method."""
    model = build_backbone(str(shape["name"]), _without_name(shape) | {"global_pool": "avg"}, num_classes=CLASSES)
    task = Classification(model, CLASSES, label_smoothing=0.1, mixup=0.0, cutmix=0.0).to(_device()).train()
    images = torch.randn(preset.batch_size, 3, SIZE, SIZE, device=_device())
    labels = torch.randint(CLASSES, (preset.batch_size,), device=_device())
    return _update(task, Batch(images, labels=labels), TrainingSettings(steps=1, precision=preset.precision))


def _update(task: nn.Module, batch: Batch, settings: TrainingSettings) -> Step:
    """Forward, backward, the optimiser, and what a method does after it."""
    optimiser = build_optimiser(task, settings)
    rng = torch.Generator(device=_device()).manual_seed(0)

    def step() -> None:
        with _arithmetic(settings):
            loss: Tensor = task(batch, rng).loss
        loss.backward()
        if settings.clip_grad:
            nn.utils.clip_grad_norm_(task.parameters(), settings.clip_grad)
        optimiser.step()
        optimiser.zero_grad()
        if isinstance(task, Method):
            task.after_step(batch.epoch)

    return step


class _RandomImages:
    """Random images of the size of the comparison's, as a decoded set.

    Args:
        images: How many.
    """

    def __init__(self, images: int) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (images, SIZE, SIZE, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.pixels)

    def get(self, i: int) -> Pixels:
        """Image `i`, uint8 [H, W, 3]."""
        pixels: Pixels = self.pixels[i]
        return pixels


def _looking(name: str) -> str:
    return f"{name}, looking at all images"


def _arithmetic(settings: TrainingSettings) -> AbstractContextManager[Any]:
    mixed = lightning_precision(settings.precision).startswith("bf16")
    return torch.autocast(_device().type, torch.bfloat16, enabled=mixed)


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
            info = CheckpointInfo(
                architecture=str(shape["name"]),
                model_args=arguments,
                preprocess=contract.at((SIZE, SIZE)),
                num_classes=classes,
            )
            model = build_backbone(str(shape["name"]), arguments, num_classes=classes)
            save_checkpoint(Path(folder) / name, model, info)
        yield Path(folder)


def _without_name(shape: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in shape.items() if k != "name"}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
