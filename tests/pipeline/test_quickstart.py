"""The quickstart runs every stage for real; here with models and runs as small as they go."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgemim.artifact import load_artifact
from edgemim.data.open import open_splits
from edgemim.errors import DataError, OutputError
from edgemim.pipeline import quickstart as module
from edgemim.pipeline.plan import Plan
from edgemim.pipeline.quickstart import run_quickstart
from edgemim.pipeline.table import quickstart_table

BACKBONE = {"name": "vit_tiny_patch16_224", "img_size": 32, "patch_size": 8, "num_heads": 2}
TINY = Plan(
    teacher=BACKBONE | {"embed_dim": 48, "depth": 3},
    student=BACKBONE | {"embed_dim": 32, "depth": 2},
    teacher_steps=3,
    teacher_finetune_steps=3,
    student_steps=2,
    student_finetune_steps=2,
    batch_size=8,
    decoder={"decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2},
    augmentation={"flip": False},
    optimiser={},
    threads=1,
    check_seconds=0.01,
)
# What the issue promises that `--json` has, by place.
PROMISED = {
    "teacher": {"top1", "parameters"},
    "student": {"top1", "parameters"},
    "student_without_teacher": {"top1", "parameters"},
    "int8": {"top1", "p50_ms", "p99_ms", "size_bytes", "agreement", "backend"},
    "fp32": {"top1", "p50_ms", "p99_ms", "size_bytes", "agreement", "backend"},
}


def check_result(result: Mapping[str, Any], out: Path) -> None:
    for place, names in PROMISED.items():
        assert set(result[place]) >= names
        assert 0 <= result[place]["top1"] <= 1
    assert result["student"]["parameters"] == result["student_without_teacher"]["parameters"]
    assert result["student"]["parameters"] < result["teacher"]["parameters"]
    assert result["int8"]["p50_ms"] > 0
    assert result["int8"]["size_bytes"] < result["fp32"]["size_bytes"]
    assert load_artifact(result["bundle"], "bundle").content["gates"] == {"top1.max_drop": 0.01}
    assert load_artifact(result["report"], "report").content["passed"] is result["passed"]
    assert json.loads((out / "quickstart.json").read_text("utf-8")) == result
    assert len(quickstart_table(result).splitlines()) == 6


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, classes: Path) -> tuple[dict[str, Any], Path, list[str]]:
    """Result, folder and lines of a run on the striped images."""
    said: list[str] = []
    out = tmp_path_factory.mktemp("quick") / "start"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "make_plan", lambda *_, **__: TINY)
        result = run_quickstart(str(classes), out, minutes=1, seed=3, say=said.append)
    return result, out, said


def test_the_result_has_every_number_that_was_promised(done: tuple[dict[str, Any], Path, list[str]]) -> None:
    result, out, _ = done
    check_result(result, out)
    assert result["test_images"] == 4
    assert result["steps"] == {"teacher": 3, "teacher_finetune": 3, "student": 2, "student_finetune": 2}


def test_both_students_have_the_same_steps_data_and_seed(done: tuple[dict[str, Any], Path, list[str]]) -> None:
    settings = {}
    for name in ("student", "student-alone"):
        before, after = load_artifact(done[1] / name, "checkpoint").provenance
        settings[name] = [before["settings"], after["settings"]]
        assert before["settings"]["seed"] == after["settings"]["seed"] == 3
    with_teacher, alone = settings["student"], settings["student-alone"]
    for key in ("data", "backbone", "augmentation", "preprocess", "masking"):
        assert with_teacher[0][key] == alone[0][key]
    assert with_teacher[0]["training"] == alone[0]["training"]
    assert {k: v for k, v in with_teacher[1].items() if k != "init"} == {
        k: v for k, v in alone[1].items() if k != "init"
    }
    assert (with_teacher[0]["method"]["name"], alone[0]["method"]["name"]) == ("dmae", "mae")


def test_the_teacher_is_the_pretrained_one_and_the_student_ships(
    done: tuple[dict[str, Any], Path, list[str]],
) -> None:
    _, out, _ = done
    student = load_artifact(out / "student", "checkpoint")
    assert student.provenance[0]["teacher"]["source"] == str(out / "teacher-pretrained")
    bundle = load_artifact(out / "bundle", "bundle")
    assert bundle.content["parameters"] == student.content["parameters"]
    assert bundle.content["evaluation"]["count"] == len(open_splits(done[0]["data"], seed=3).test)


def test_the_user_follows_the_five_parts(done: tuple[dict[str, Any], Path, list[str]]) -> None:
    assert [line[:3] for line in done[2] if line[1:3] == "/5"] == [f"{n}/5" for n in range(1, 6)]


def test_an_earlier_quickstart_is_only_replaced_when_told_to(
    done: tuple[dict[str, Any], Path, list[str]], classes: Path
) -> None:
    with pytest.raises(OutputError, match="replace it with --overwrite"):
        run_quickstart(str(classes), done[1], minutes=1, seed=3, say=print)


def test_what_was_not_measured_is_none_and_no_crash() -> None:
    row = {"precision": "int8", "latency": None, "accuracy": None, "backend": "openvino", "size_bytes": 10}
    best = module._best({"candidates": [row]}, "int8")
    assert module._measured(best) == {
        "top1": None,
        "agreement": None,
        "backend": "openvino",
        "p50_ms": None,
        "p99_ms": None,
        "size_bytes": 10,
    }
    faster = row | {"backend": "onnxruntime", "latency": {"p50_ms": 2.0, "p99_ms": None}}
    assert module._best({"candidates": [row, faster]}, "int8") is faster


def test_a_broken_image_is_found_before_there_is_a_folder(
    classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(classes, tmp_path / "broken")
    last = sorted((tmp_path / "broken" / "rows").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:200])
    monkeypatch.setattr(module, "make_plan", lambda *_, **__: TINY)
    with pytest.raises(DataError, match=f"{last.name} is not an image that can be read"):
        run_quickstart(str(tmp_path / "broken"), tmp_path / "out", minutes=1, seed=0, say=print)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_on_digits_the_story_ends_with_a_student_that_has_learnt(tmp_path: Path) -> None:
    out = tmp_path / "quick"
    command = [sys.executable, "-m", "edgemim", "quickstart", "--json", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr  # 1: the student in INT8 missed the gate, which is no failure here
    result = json.loads(done.stdout)
    check_result(result, out)
    assert done.returncode == (0 if result["passed"] else 1)
    # The steps follow from measured speed, so a busy machine trains less; a guess is right one time in ten.
    assert result["teacher"]["top1"] > 0.5
    assert result["student"]["top1"] > 0.5
    # INT8 without VNNI saturates in OpenVINO (seen: 0.86), which the report then says.
    assert result["int8"]["agreement"] > 0.7
