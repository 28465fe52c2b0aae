"""What does a `dmae` step cost beside one that runs the whole teacher on all patches?

    python benchmarks/distillation_cost.py [--batch-size 8] [--rounds 5] [--threads 2]

`dmae` runs the teacher on the visible quarter of the patches and stops it at the matched block (18 of 24 for ViT-L).
The other step differs in nothing but that: the teacher sees every patch, runs to its end, and the tokens after its last
block are gathered at the visible places. A step is forward, backward and the optimiser, 224 pixels, patch 16: ViT-L to
ViT-B, and ViT-B to ViT-Ti with MAE's decoder of 8 blocks of 512 channels and with one block. The two are timed in turn,
and so is the teacher's part of each. Weights and images are random. Takes about ten minutes on two cores, and
8 GiB of memory.

What would make the answer wrong: other work on the machine; a batch so small that the optimiser, whose cost does not
depend on the batch, is most of the step (it then makes the ratio worse, not better); one thread count for all machines.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _parts.clock import Step, compared, time_in_turn
from _parts.machine import command, describe_machine
from _parts.memory import peak_memory_mib
from _parts.one_run import write_result
from _parts.side_by_side import say_on_stderr
from torch import Tensor

from edgemim.masking.random import RandomMasking
from edgemim.methods._base import Batch
from edgemim.methods._teacher_view import at_visible
from edgemim.methods.dmae import DMAE, DMAESettings
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.teachers import Teacher, TeacherOrigin
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from edgemim.training.loop.optimiser import build_optimiser
from edgemim.training.settings.training import TrainingSettings

HERE = Path(__file__).parent
SIZE = 224
DMAE_STEP, WHOLE_STEP = "dmae", "whole teacher"
TARGET = {"large-to-base": 0.6}
LARGE, BASE, TINY = "vit_large_patch16_224", "vit_base_patch16_224", "vit_tiny_patch16_224"
CASES: dict[str, tuple[str, str, int]] = {  # teacher, student, blocks of the decoder
    "large-to-base": (LARGE, BASE, 8),
    "base-to-tiny": (BASE, TINY, 8),
    "base-to-tiny-1-block": (BASE, TINY, 1),
}


class WholeTeacher(DMAE):
    """The same loss, with a teacher that looks at everything and runs to its end."""

    def _teacher_features(self, images: Tensor, plan: MaskPlan) -> list[Tensor]:
        assert self.teacher is not None
        last = self.teacher.adapter.depth - 1
        tokens = self.teacher(images, taps=(last,)).taps[last]
        return [at_visible(tokens, self.teacher.adapter.num_prefix, plan)]


def main() -> None:
    """Measure every case, and write `results/distillation_cost.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "distillation_cost.json")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    machine = describe_machine()
    rows = {}
    for name in arguments.cases:
        rows[name] = measure(name, arguments.batch_size, arguments.rounds)
        say_on_stderr(f"{name}: {rows[name]['ratio']:.3f} of the step with the whole teacher")
        gc.collect()
    result = {
        "question": (__doc__ or "").split("\n")[0],
        "command": command("distillation_cost.py"),
        "image_size": SIZE,
        "batch_size": arguments.batch_size,
        "threads": torch.get_num_threads(),
        "rounds": arguments.rounds,
        "precision": "fp32",
        "peak_mib": round(peak_memory_mib(), 1),
        "rows": rows,
        **machine,
    }
    write_result(arguments.out, result)
    say_on_stderr(f"wrote {arguments.out}")


def measure(name: str, batch_size: int, rounds: int) -> dict[str, Any]:
    """The two steps of a case and the parts of a step, in turn."""
    teacher_name, student_name, decoder_depth = CASES[name]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    contract = Preprocess(size=(SIZE, SIZE))
    origin = TeacherOrigin(source=teacher_name, architecture=teacher_name, licence="none", sha256=None)
    mean_and_std = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    teacher = Teacher(adapt(build_backbone(teacher_name)), origin, student=contract, **mean_and_std)
    settings = DMAESettings(decoder_depth=decoder_depth)
    batch = Batch(torch.randn(batch_size, 3, SIZE, SIZE, device=device))
    methods: dict[str, DMAE] = {}
    for label, cls in ((DMAE_STEP, DMAE), (WHOLE_STEP, WholeTeacher)):
        student = adapt(build_backbone(student_name))
        methods[label] = cls(student, RandomMasking(), settings, teacher).to(device).train()
    steps = {label: update(method, batch) for label, method in methods.items()}
    plan = methods[DMAE_STEP].draw(batch, torch.Generator(device=device).manual_seed(0))
    for label, method in methods.items():
        steps[f"teacher of {label}"] = teacher_only(method, batch, plan)
    rows = compared(time_in_turn(steps, rounds=rounds), WHOLE_STEP)
    ratio, target = rows[DMAE_STEP]["ratio"], TARGET.get(name)
    return {
        "teacher": teacher_name,
        "student": student_name,
        "decoder": f"{settings.decoder_width} x {decoder_depth}",
        "teacher_blocks": [methods[DMAE_STEP].teacher_blocks[0] + 1, teacher.adapter.depth],
        "patches": [plan.keep_ids.shape[1], plan.grid[0] * plan.grid[1]],
        "ratio": ratio,
        "ratio_range": rows[DMAE_STEP]["ratio_range"],
        "target": target,
        "met": None if target is None else ratio < target,
        "steps": rows,
    }


def update(method: DMAE, batch: Batch) -> Step:
    """Forward, backward and the optimiser."""
    optimiser = build_optimiser(method, TrainingSettings(steps=1))
    rng = torch.Generator(device=batch.images.device).manual_seed(0)

    def step() -> None:
        method(batch, rng).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def teacher_only(method: DMAE, batch: Batch, plan: MaskPlan) -> Callable[[], None]:
    """The teacher's part of a step."""

    def look() -> None:
        with torch.no_grad():
            method._teacher_features(batch.images, plan)

    return look


if __name__ == "__main__":
    main()
