"""Runs of the tiny preset in this process: what they give, and that a finished one is not trained again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from _parts.comparison import student_run, teacher_run
from _parts.one_run import execute
from _parts.presets import PRESETS

from edgemim.models.checkpoint import load_checkpoint
from edgemim.training.loop.remembering import RefreshMemory

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A folder, a teacher in it, and what all runs have in common."""
    work = tmp_path_factory.mktemp("comparison")
    teacher = work / "teacher"
    common = {"key": "key", "data": Path("digits"), "workers": 0}
    execute(teacher_run(TINY), work=teacher, teacher=None, **common)
    return {"folder": work, "teacher": teacher, "common": common}


def test_a_distilled_row_is_probed_fine_tuned_and_recorded(places: dict[str, Any]) -> None:
    run, work = student_run("dmae", TINY, 1), places["folder"] / "dmae"
    result = execute(run, work=work, teacher=places["teacher"], **places["common"])
    assert all(0 <= result[name] <= 1 for name in ("knn_top1", "linear_top1", "top1"))
    assert result["student_updates"] == TINY.updates + TINY.finetune_updates
    assert result["images_seen"] == result["student_updates"] * TINY.batch_size
    assert result["stages"][0]["teacher"] == "teacher/pretrained"
    assert result["stages"][0]["settings"]["seed"] == 1
    assert str(work) not in str(result)
    again = execute(run, work=work, teacher=places["teacher"], **places["common"])
    assert all(stage["result"]["finished_before"] for stage in again["stages"])
    assert [again[name] for name in ("knn_top1", "top1")] == [result[name] for name in ("knn_top1", "top1")]


@pytest.mark.parametrize(
    ("baseline", "method", "weight"),
    [
        ("scratch", "mae", "blocks.0.attn.qkv.weight"),
        pytest.param("scratch-convnet", "spark", "stages.1.blocks.0.mlp.fc1.weight", marks=pytest.mark.slow),
    ],
)
def test_scratch_begins_with_the_weights_that_pretraining_begins_with(
    places: dict[str, Any], baseline: str, method: str, weight: str
) -> None:
    work = places["folder"] / baseline
    result = execute(student_run(baseline, TINY, 0), work=work, teacher=None, **places["common"])
    assert "knn_top1" not in result
    assert result["student_updates"] == TINY.finetune_updates
    fresh = load_checkpoint(work / "fresh").model.state_dict()
    other = places["folder"] / method
    scores = execute(student_run(method, TINY, 0), work=other, teacher=None, **places["common"])
    assert all(0 <= scores[name] <= 1 for name in ("knn_top1", "linear_top1", "top1"))
    trained = load_checkpoint(other / "pretrained").model.state_dict()
    # Four updates move a weight by about the sum of the rates, 1e-3, so the two are the same draw only if they are this
    # close: weights are drawn with a deviation of 0.02 or more, and there are hundreds.
    assert (fresh[weight] - trained[weight]).abs().max() < 0.01
    assert fresh[weight].std() > 0.01


def test_amt_looks_at_the_images_within_its_short_run(places: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    monkeypatch.setattr(RefreshMemory, "refresh", lambda self, module, _: looks.append(module.global_step))
    # Lengths in epochs follow from how many images there are.
    digits = dataclasses.replace(TINY, train_images=1437, updates=10, finetune_updates=1)
    run = student_run("amt", digits, 0)
    execute(run, work=places["folder"] / "amt", teacher=None, **places["common"])
    assert looks == list(range(1, 10))
