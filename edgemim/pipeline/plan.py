"""How big the quickstart's models are and how many steps each stage gets, from the images and measured speed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from edgemim.data.open import Splits
from edgemim.pipeline.speed import measure_speed

_ARCHITECTURE = "vit_tiny_patch16_224"
# Share of the training time that each stage gets; the stages without a teacher run as many steps as those with.
# Most goes to the teacher's pretraining: features of a teacher that knows little teach a student nothing.
_SHARES = {"teacher": 0.42, "teacher_finetune": 0.14, "student": 0.12, "student_finetune": 0.11}
# More steps do not help on 1,437 digits; a fast machine then ends early, with the same numbers as another.
_ENOUGH_FOR_DIGITS = {"teacher": 1000, "teacher_finetune": 250, "student": 300, "student_finetune": 300}
_LEAST_STEPS = 20
_SMALL = 48


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes and lengths of all stages.

    Attributes:
        teacher, student: Backbone tables for the recipes.
        teacher_steps, teacher_finetune_steps, student_steps, student_finetune_steps: Optimiser steps.
        batch_size: Images per step, in every stage.
        threads: Of torch, in the training stages.
        decoder: Size of the decoder in pretraining.
        augmentation, optimiser: Where they differ from the recipes' (digits must not be mirrored, and their runs
            are short).
        check_seconds: Measured time of each candidate in `check`.
    """

    teacher: Mapping[str, Any]
    student: Mapping[str, Any]
    teacher_steps: int
    teacher_finetune_steps: int
    student_steps: int
    student_finetune_steps: int
    batch_size: int
    threads: int
    decoder: Mapping[str, int]
    augmentation: Mapping[str, Any]
    optimiser: Mapping[str, float]
    check_seconds: float

    def training(self, steps: int) -> dict[str, Any]:
        """The training table of a stage."""
        return {"steps": steps, "batch_size": self.batch_size, **self.optimiser}

    def steps(self) -> dict[str, int]:
        """Steps by stage, for the report."""
        return {
            "teacher": self.teacher_steps,
            "teacher_finetune": self.teacher_finetune_steps,
            "student": self.student_steps,
            "student_finetune": self.student_finetune_steps,
        }


def make_plan(
    splits: Splits, *, digits: bool, minutes: float, seed: int, say: Callable[[str], None], spent: float = 0.0
) -> Plan:
    """Measure a few steps of each stage on this machine and share out the time.

    Args:
        splits: Whose first image decides the input size.
        digits: Whether these are the embedded digits, which need fewer tokens and no mirroring.
        minutes: For all of the quickstart.
        spent: Seconds of them that are over.
        seed: Of the weights of the measured models.
        say: Called with a line.
    """
    geometry = input_geometry(splits)
    teacher_width, student_width = (96, 64) if digits else (192, 128)
    teacher = {"name": _ARCHITECTURE, **geometry, "embed_dim": teacher_width, "depth": 6, "num_heads": 3}
    student = {"name": _ARCHITECTURE, **geometry, "embed_dim": student_width, "depth": 4, "num_heads": 2}
    batch_size = min(32 if digits else 64, len(splits.train))
    width = 64 if digits else 128
    decoder = {"decoder_width": width, "decoder_depth": 1 if digits else 2, "decoder_heads": 4}
    torch.manual_seed(seed)
    speed = measure_speed(teacher, student, decoder, batch_size, classes=splits.train.num_classes or 2)
    seconds = speed.seconds
    budget = max(10.0, minutes * 60 - spent - _overhead(len(splits.test)))
    most = _ENOUGH_FOR_DIGITS if digits else {}
    steps = {
        name: min(max(_LEAST_STEPS, int(budget * share / seconds[name])), most.get(name, sys.maxsize))
        for name, share in _SHARES.items()
    }
    say(f"about {minutes:g} minutes with {speed.threads} threads; measured ms per step: {_in_ms(seconds)}")
    return Plan(
        teacher=teacher,
        student=student,
        teacher_steps=steps["teacher"],
        teacher_finetune_steps=steps["teacher_finetune"],
        student_steps=steps["student"],
        student_finetune_steps=steps["student_finetune"],
        batch_size=batch_size,
        threads=speed.threads,
        decoder=decoder,
        augmentation={"flip": False, "min_scale": 0.9} if digits else {},
        optimiser={"base_lr": 3e-3} if digits else {},
        check_seconds=1.0 if minutes < 5 else 5.0,
    )


def input_geometry(splits: Splits) -> dict[str, int]:
    """Input size and patch size in pixels, by the first image: 16 tokens for small images, 36 for photos.

    More tokens would be better with more time: in minutes on a few cores, more passes over the images are.
    """
    small = min(splits.train.image(0).size) <= _SMALL
    return {"img_size": 32, "patch_size": 8} if small else {"img_size": 96, "patch_size": 16}


def _overhead(test_images: int) -> float:
    """Seconds of everything after the plan but training: two exports, INT8, two checks, evaluations; and imports."""
    return 40.0 + 0.02 * min(test_images, 10_000)


def _in_ms(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {1000 * value:.0f}" for name, value in seconds.items())
