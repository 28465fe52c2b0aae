"""Runs of the tiny preset in this process: what they give, and that a finished one is not trained again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from _parts.comparison import PRESETS, student_run, teacher_run
from _parts.cost import FINETUNE, measure_seconds
from _parts.one_run import execute

from edgemim.models.checkpoint import load_checkpoint

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


def test_scratch_begins_with_the_weights_that_pretraining_begins_with(places: dict[str, Any]) -> None:
    work = places["folder"] / "scratch"
    result = execute(student_run("scratch", TINY, 0), work=work, teacher=None, **places["common"])
    assert "knn_top1" not in result
    assert result["student_updates"] == TINY.finetune_updates
    fresh = load_checkpoint(work / "fresh").model.state_dict()
    other = places["folder"] / "mae"
    execute(student_run("mae", TINY, 0), work=other, teacher=None, **places["common"])
    trained = load_checkpoint(other / "pretrained").model.state_dict()
    # Biases of a layer start at zero and four warm-up updates move a weight by at most the sum of the rates, so the
    # two are the same draw only if they are this close: two draws differ by about 0.1 in each weight.
    assert (fresh["blocks.0.attn.qkv.weight"] - trained["blocks.0.attn.qkv.weight"]).abs().max() < 0.02


def test_the_cost_of_updates_is_compared_with_mae() -> None:
    runs = [student_run(name, TINY, 0) for name in ("mae", "dmae", "selfdistill")]
    rows = measure_seconds(runs, TINY, rounds=1, steps_per_round=1)
    assert set(rows) == {"mae", "dmae", "selfdistill", FINETUNE}
    assert rows["mae"]["ratio"] == 1.0
    assert all(row["median_s"] > 0 for row in rows.values())
