"""From images to a report in five commands: what each prints, and what the next one finds."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgemim.artifact import load_artifact

MEASURED = {"checkpoint", "stage", "steps", "seconds", "images_per_second", "loss", "data_wait", "untrained"}


def test_pretrain_prints_the_checkpoint_and_the_numbers_of_the_run(story: SimpleNamespace) -> None:
    result = story.pretrain_done.json
    assert set(result) == MEASURED | {"method", "knn_top1"}
    assert (result["checkpoint"], result["stage"], result["method"]) == (str(story.teacher), "pretrain", "mae")
    assert result["steps"] == 3
    assert 0 < result["loss"] < 10
    assert 0.2 < result["knn_top1"] <= 1  # k-NN on random features of digits is far above one in ten
    assert result["images_per_second"] > 0


def test_distill_prints_the_same_of_the_student(story: SimpleNamespace) -> None:
    result = story.distill_done.json
    assert set(result) == MEASURED | {"method", "knn_top1"}
    assert (result["checkpoint"], result["stage"], result["method"]) == (str(story.student), "distill", "dmae")


def test_finetune_prints_the_top1_on_the_test_images(story: SimpleNamespace) -> None:
    result = story.finetune_done.json
    assert set(result) == MEASURED | {"top1"}
    assert (result["checkpoint"], result["stage"]) == (str(story.classifier), "finetune")
    assert 0 <= result["top1"] <= 1
    assert result["top1"] * 360 == pytest.approx(round(result["top1"] * 360), abs=1e-3)


def test_export_prints_what_the_bundle_holds(story: SimpleNamespace) -> None:
    result = story.export_done.json
    assert result["bundle"] == str(story.bundle)
    assert result["target"] == "x86"
    assert [c["precision"] for c in result["candidates"]] == ["fp32", "bf16", "int8", "int8", "int8", "int8"]
    assert result["class_names"] == [str(n) for n in range(10)]
    assert result["calibration"]["images"] == 8
    assert result["evaluation"] == {"file": "evaluation.zip", "count": 20, "labelled": True}
    assert result["gates"] == {"top1.max_drop": 0.9}
    assert {k: v for k, v in result.items() if k != "bundle"} == load_artifact(story.bundle, "bundle").content


def test_check_prints_the_report_as_it_is_on_disk(story: SimpleNamespace) -> None:
    result = story.check_done.json
    assert result.pop("report") == str(story.report)
    assert result == json.loads((story.report / "report.json").read_text("utf-8"))
    assert result["passed"] is True
    names = {(row["name"], row["backend"]) for row in result["candidates"]}
    flavours = ("fp32", "int8-linear", "int8-attention")
    everywhere = {(name, backend) for name in flavours for backend in ("onnxruntime", "openvino")}
    # Where the CPU has it.
    bf16 = {(name, "openvino") for name in ("bf16", "int8-linear-bf16", "int8-attention-bf16")}
    assert everywhere <= names <= everywhere | bf16
    for row in result["candidates"]:
        assert row["latency"]["p50_ms"] > 0
        assert row["accuracy"]["n"] == 20
        assert row["passed"] is True
    assert (result["chosen"], result["chosen_backend"]) in names
    assert result["gates"] == {"top1.max_drop": {"limit": 0.9, "from": "bundle", "allowed_unmeasured": False}}


@pytest.mark.parametrize("command", ["pretrain", "distill", "finetune", "export"])
def test_what_people_read_is_on_stderr_and_names_the_next_command(story: SimpleNamespace, command: str) -> None:
    lines = getattr(story, f"{command}_done").err.splitlines()
    assert lines[-1].startswith("next: edgemim ")
    assert "Warning" not in "".join(lines)


def test_the_verdict_is_a_line_on_stderr(story: SimpleNamespace) -> None:
    assert story.check_done.err.splitlines() == [story.check_done.json["verdict"]]


def test_few_calibration_images_are_called_unreliable(story: SimpleNamespace) -> None:
    assert "calibration on 8 images is unreliable; use 128 or more" in story.export_done.err


def test_a_training_run_shows_its_progress_on_stderr(story: SimpleNamespace) -> None:
    assert "pretrain mae 3/3 " in story.pretrain_done.err


def test_the_report_remembers_every_stage(story: SimpleNamespace) -> None:
    stages = [record["stage"] for record in load_artifact(story.report, "report").provenance]
    assert stages == ["distill", "finetune", "export", "quantize", "pixels", "bundle", "check"]


def test_the_provenance_says_what_was_asked_and_what_came_out(story: SimpleNamespace) -> None:
    (record,) = load_artifact(story.teacher, "checkpoint").provenance
    assert record["settings"]["training"]["steps"] == 3
    assert record["settings"]["backbone"]["embed_dim"] == 32
    assert record["data"]["spec"] == "digits"
    assert record["data"]["images"] == 1437
    assert record["scores"] == {"knn_top1": story.pretrain_done.json["knn_top1"]}
    distilled = load_artifact(story.student, "checkpoint").provenance[-1]
    assert distilled["teacher"]["source"] == str(story.teacher)
    assert distilled["teacher"]["sha256"] == load_artifact(story.teacher).files["model.safetensors"].sha256


def test_a_run_leaves_logs_and_pictures_beside_the_checkpoint(story: SimpleNamespace) -> None:
    assert sorted(p.name for p in (story.teacher / "reconstructions").iterdir())[-1] == "step-000000003.png"
    header = next((story.teacher / "logs" / "csv").rglob("metrics.csv")).read_text("utf-8").splitlines()[0]
    assert "loss" in header
    assert any((story.teacher / "logs" / "tensorboard").iterdir())


def test_nothing_is_left_beside_the_folders(story: SimpleNamespace) -> None:
    found = {p.name for p in story.folder.iterdir()}
    assert found == {"teacher", "student", "classifier", "bundle", "report"}


def test_without_json_a_result_is_one_line_per_name(
    cli: Any, story: SimpleNamespace, tmp_path: Path, options: Any
) -> None:
    done = cli("finetune", story.student, "--data", "digits", *options.finetune, "--out", tmp_path / "again")
    assert done.code == 0, done.err
    names = [line.split()[0] for line in done.out.splitlines()]
    assert " ".join(names) == "checkpoint stage steps seconds images_per_second loss data_wait untrained top1"


def test_epochs_are_counted_in_images(cli: Any, tmp_path: Path, options: Any, data: Path) -> None:
    arguments = ["--recipe", "mae-small", *options.small, "--batch-size", "4", "--epochs", "2"]
    done = cli("pretrain", "--data", data / "photos", *arguments, "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    assert done.json["steps"] == 5  # 10 of 12 images are trained on, twice, 4 a step


def test_init_starts_from_a_checkpoint_of_the_same_backbone(cli: Any, story: SimpleNamespace, tmp_path: Path) -> None:
    arguments = ["--recipe", "mae-small", "--steps", "1", "--batch-size", "4", "--set", "training.base_lr=0.0"]
    done = cli("pretrain", *arguments, "--init", story.teacher, "--out", tmp_path / "more")
    assert done.code == 0, done.err
    before, after = load_artifact(story.teacher), load_artifact(tmp_path / "more")
    assert after.files["model.safetensors"].sha256 == before.files["model.safetensors"].sha256
    assert [record["stage"] for record in after.provenance] == ["pretrain", "pretrain"]


def test_images_of_mixed_modes_and_sizes_are_fine(cli: Any, tmp_path: Path, options: Any, data: Path) -> None:
    done = cli("pretrain", "--data", data / "mixed", *options.pretrain, "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    assert "knn_top1" not in done.json


def test_deterministic_runs_have_the_same_bytes(cli: Any, tmp_path: Path, options: Any, data: Path) -> None:
    hashes = []
    for name in ("one", "two"):
        arguments = ["--data", data / "photos", *options.pretrain, "--seed", "7", "--deterministic"]
        assert cli("pretrain", *arguments, "--out", tmp_path / name).code == 0
        done = cli("inspect", tmp_path / name, "--json").json
        hashes.append({file: record["sha256"] for file, record in done["files"].items()} | {"all": done["fingerprint"]})
    assert hashes[0] == hashes[1]
    cli("pretrain", "--data", data / "photos", *options.pretrain, "--seed", "8", "--out", tmp_path / "other")
    assert cli("inspect", tmp_path / "other", "--json").json["fingerprint"] != hashes[0]["all"]


def test_overwrite_replaces_an_earlier_run(cli: Any, tmp_path: Path, options: Any, data: Path) -> None:
    arguments = ["pretrain", "--data", data / "photos", *options.pretrain, "--out", tmp_path / "run"]
    assert cli(*arguments).code == 0
    before = load_artifact(tmp_path / "run").fingerprint
    assert cli(*arguments).code == 2
    assert cli(*arguments, "--seed", "9", "--overwrite").code == 0
    assert load_artifact(tmp_path / "run").fingerprint != before
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
