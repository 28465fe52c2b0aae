"""Measured seconds per step of the quickstart's stages."""

from __future__ import annotations

import os

import pytest
import torch

from edgemim.pipeline import speed as module
from edgemim.pipeline.speed import measure_speed

BACKBONE = {"name": "vit_tiny_patch16_224", "img_size": 32, "patch_size": 8, "num_heads": 2}
TEACHER, STUDENT = BACKBONE | {"embed_dim": 64, "depth": 4}, BACKBONE | {"embed_dim": 32, "depth": 1}
DECODER = {"decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2}


def test_every_stage_is_measured_and_a_bigger_model_is_slower() -> None:
    before = torch.get_num_threads()
    measured = measure_speed(TEACHER, STUDENT, DECODER, 16, classes=3)
    assert torch.get_num_threads() == before
    assert set(measured.seconds) == {"teacher", "teacher_finetune", "student", "student_finetune"}
    assert 0 < measured.seconds["student_finetune"] < measured.seconds["teacher_finetune"]


def test_the_number_of_threads_with_the_smallest_sum_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = range(4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(cores))
    for taken in ({1: 0.01, 4: 0.02}, {1: 0.02, 4: 0.01}):
        monkeypatch.setattr(module, "_seconds_per_step", lambda *_, taken=taken: taken[torch.get_num_threads()])
        speed = measure_speed(TEACHER, STUDENT, DECODER, 2, classes=3)
        assert taken[speed.threads] == 0.01
        assert set(speed.seconds.values()) == {0.01}
