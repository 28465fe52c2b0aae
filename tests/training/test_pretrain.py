"""`pretrain` and `distill` end to end on the digits, a few steps each."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgemim.config import build, merge
from edgemim.errors import ArtifactError, ConfigError, TrainingError
from edgemim.models.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from edgemim.models.teachers import load_teacher
from edgemim.preprocess import Preprocess
from edgemim.training import pretrain as module
from edgemim.training.pretrain import pretrain
from edgemim.training.saving.save import Interrupted
from edgemim.training.saving.state import VerifiedCheckpointIO, newest_state
from edgemim.training.settings.run import RunSettings

MakeSettings = Callable[..., RunSettings]
DMAE = {"name": "dmae", "sum_channels": True}


def test_the_result_names_the_numbers_of_the_run(tmp_path: Path, run_settings: MakeSettings) -> None:
    settings = run_settings(evaluation={"probe": "both", "max_images": 200}, training={"picture_steps": 4})
    result = pretrain(settings, tmp_path / "out", stage="pretrain")
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert (result["checkpoint"], result["stage"], result["method"]) == (str(tmp_path / "out"), "pretrain", "mae")
    assert result["steps"] == 6
    assert result["images_per_second"] > 0
    # Ten classes: even six steps leave the pixels of a digit well above one in ten.
    assert 0.2 < result["knn_top1"] <= 1
    assert 0.2 < result["linear_top1"] <= 1
    assert sorted(p.name for p in (tmp_path / "out" / "reconstructions").iterdir()) == [
        "step-000000004.png",
        "step-000000006.png",
    ]


def test_the_checkpoint_holds_the_backbone_and_apart_from_it_the_rest(teacher: Path) -> None:
    checkpoint = load_checkpoint(teacher)
    assert (checkpoint.num_classes, checkpoint.class_names) == (0, None)
    assert (checkpoint.info.stage, checkpoint.info.method) == ("pretrain", "mae")
    assert checkpoint.preprocess.mean == (0.5, 0.5, 0.5)
    assert checkpoint.preprocess.size == (16, 16)
    thrown = checkpoint.predictor()
    assert thrown
    assert all(name.startswith("pixels.decoder.") for name in thrown)


def test_the_provenance_says_what_was_done(teacher: Path) -> None:
    (record,) = load_checkpoint(teacher).artifact.provenance
    assert record["stage"] == "pretrain"
    assert record["settings"]["training"]["batch_size"] == 8
    assert record["data"]["images"] == 1437
    assert len(record["data"]["fingerprint"]) == 64
    assert {"torch", "timm", "lightning"} <= set(record["versions"])
    assert 0 < record["scores"]["knn_top1"] <= 1
    assert record["result"]["steps"] == 6
    assert record["teacher"] is None


def test_distilling_trains_the_student_and_leaves_the_teacher(
    tmp_path: Path, run_settings: MakeSettings, teacher: Path
) -> None:
    before = (teacher / "model.safetensors").read_bytes()
    settings = run_settings(method=DMAE, teacher={"source": str(teacher), "licence": "MIT"})
    result = pretrain(settings, tmp_path / "out", stage="distill")
    assert result["method"] == "dmae"
    student = load_checkpoint(tmp_path / "out")
    assert student.info.stage == "distill"
    assert student.artifact.provenance[-1]["teacher"]["source"] == str(teacher)
    assert student.artifact.provenance[-1]["teacher"]["licence"] == "MIT"
    assert not [name for name in student.predictor() if "teacher" in name]
    assert [name for name in student.predictor() if name.startswith("projectors.")]
    assert (teacher / "model.safetensors").read_bytes() == before


def test_the_teacher_is_not_in_the_saved_state(tmp_path: Path, run_settings: MakeSettings, teacher: Path) -> None:
    settings = run_settings(method=DMAE, teacher={"source": str(teacher)})
    pretrain(settings, tmp_path / "out", stage="distill")
    found = newest_state(tmp_path / "out")
    assert found is not None
    state = VerifiedCheckpointIO().load_checkpoint(found[0])
    assert not [name for name in state["state_dict"] if "teacher" in name]
    size = sum(v.numel() * 4 for v in state["state_dict"].values())
    assert found[0].stat().st_size < 3 * size + 100_000  # weights and AdamW's two moments, nothing else


@pytest.mark.parametrize("stage", ["pretrain", "distill"])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(
    tmp_path: Path,
    run_settings: MakeSettings,
    teacher: Path,
    signal_at: Any,
    stage: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    over = {"method": DMAE, "teacher": {"source": str(teacher)}} if stage == "distill" else {}
    settings = run_settings(**over)
    pretrain(settings, tmp_path / "whole", stage=stage)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_pictures", lambda *_: [signal_at(4, signal.SIGINT)])
        with pytest.raises(Interrupted):
            pretrain(settings, tmp_path / "parts", stage=stage)
    with pytest.raises(ArtifactError, match="was never finished: run it again with --resume"):
        load_checkpoint(tmp_path / "parts")
    torch.rand(3)
    result = pretrain(settings, tmp_path / "parts", stage=stage, resume=True)
    assert result["steps"] == 6
    for name in ("model.safetensors", "predictor.safetensors", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    record = load_checkpoint(tmp_path / "parts").artifact.provenance[-1]
    assert record["result"]["resumed_from"] == 4


def test_a_run_killed_after_its_last_step_is_finished_by_resume(tmp_path: Path, run_settings: MakeSettings) -> None:
    out = tmp_path / "out"
    pretrain(run_settings(), out, stage="pretrain")
    before = (out / "model.safetensors").read_bytes()
    (out / "manifest.json").unlink()
    result = pretrain(run_settings(), out, stage="pretrain", resume=True)
    assert json.dumps(result, allow_nan=False)
    assert result["loss"] is None
    assert (out / "model.safetensors").read_bytes() == before
    assert load_checkpoint(out).artifact.provenance[-1]["result"]["loss"] is None


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, run_settings: MakeSettings, teacher: Path) -> None:
    out = tmp_path / "out"
    pretrain(run_settings(), out, stage="pretrain")
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert pretrain(run_settings(), out, stage="pretrain", resume=True)["finished_before"]
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    with pytest.raises(TrainingError, match="seed was 0, is 1"):
        pretrain(run_settings(seed=1), out, stage="pretrain", resume=True)


def test_init_starts_from_the_given_weights(
    tmp_path: Path, run_settings: MakeSettings, run_values: Any, teacher: Path
) -> None:
    still = {"backbone": {}, "training": {"base_lr": 0.0, "weight_decay": 0.0}, "init": str(teacher)}
    settings = build(RunSettings, {**merge(run_values(), still), "backbone": {}})
    pretrain(settings, tmp_path / "out", stage="pretrain")
    first, second = load_checkpoint(teacher), load_checkpoint(tmp_path / "out")
    mine, given = second.model.state_dict(), first.model.state_dict()
    assert all(torch.equal(mine[k], given[k]) for k in given)
    assert first.predictor()
    assert all(torch.equal(second.predictor()[k], v) for k, v in first.predictor().items())
    assert [r["stage"] for r in second.artifact.provenance] == ["pretrain", "pretrain"]
    assert second.artifact.provenance[-1]["init"] == str(teacher)
    wrong = build(RunSettings, {**merge(run_values(), still), "backbone": {"name": "vit_small_patch16_224"}})
    with pytest.raises(ConfigError, match="holds a vit_tiny_patch16_224, --backbone says vit_small_patch16_224"):
        pretrain(wrong, tmp_path / "other", stage="pretrain")


def test_a_decoder_of_another_shape_starts_anew(tmp_path: Path, run_values: Any, teacher: Path) -> None:
    values = merge(run_values(), {"init": str(teacher), "method": {"decoder_width": 8}, "training": {"steps": 2}})
    pretrain(build(RunSettings, {**values, "backbone": {}}), tmp_path / "out", stage="pretrain")
    assert load_checkpoint(tmp_path / "out").predictor()["pixels.decoder.mask_token"].shape == (1, 1, 8)


def test_a_teacher_on_another_grid_sees_images_of_another_size(
    tmp_path: Path, run_settings: MakeSettings, teacher: Path
) -> None:
    settings = run_settings(backbone={"patch_size": 8}, method=DMAE, teacher={"source": str(teacher)})
    pretrain(settings, tmp_path / "out", stage="distill")
    record = load_checkpoint(tmp_path / "out").artifact.provenance[-1]
    # The student has 2 x 2 patches of 8 pixels, the teacher patches of 4.
    assert record["teacher"]["image_size"] == [8, 8]


def test_init_with_a_head_drops_the_head(tmp_path: Path, run_values: Any) -> None:
    from edgemim.models.build import build_backbone

    arguments = {k: v for k, v in run_values()["backbone"].items() if k != "name"} | {"global_pool": "token"}
    model = build_backbone("vit_tiny_patch16_224", arguments, num_classes=5)
    info = CheckpointInfo(
        architecture="vit_tiny_patch16_224", model_args=arguments, preprocess=Preprocess(size=(16, 16)), num_classes=5
    )
    save_checkpoint(tmp_path / "classifier", model, info)
    settings = build(RunSettings, {**run_values(), "backbone": {}, "init": str(tmp_path / "classifier")})
    pretrain(settings, tmp_path / "out", stage="pretrain")
    assert load_checkpoint(tmp_path / "out").num_classes == 0


def test_images_without_labels_are_enough(
    tmp_path: Path, run_settings: MakeSettings, imagefolder: Callable[..., Path]
) -> None:
    settings = run_settings(data=str(imagefolder(classes=0, each=20)), evaluation={"probe": "both"})
    result = pretrain(settings, tmp_path / "out", stage="pretrain")
    assert "knn_top1" not in result


def test_one_class_has_nothing_to_probe(
    tmp_path: Path, run_settings: MakeSettings, imagefolder: Callable[..., Path]
) -> None:
    settings = run_settings(data=f"imagefolder:{imagefolder(classes=1, each=20)}", evaluation={"probe": "both"})
    assert "linear_top1" not in pretrain(settings, tmp_path / "out", stage="pretrain")


@pytest.mark.slow
def test_a_short_run_learns_and_a_student_comes_nearer_to_its_teacher(
    tmp_path: Path, run_settings: MakeSettings
) -> None:
    long = {"steps": 300, "batch_size": 32, "base_lr": 2e-3, "weight_decay": 0.05}
    quiet = {"drop_path_rate": 0.0, "proj_drop_rate": 0.0, "embed_dim": 64, "num_heads": 4}
    big = {"decoder_width": 64, "decoder_heads": 4}
    probe = {"probe": "knn"}
    fresh = pretrain(
        run_settings(backbone=quiet, method=big, evaluation=probe, training={**long, "base_lr": 0.0}),
        tmp_path / "fresh",
        stage="pretrain",
    )
    taught = pretrain(
        run_settings(backbone=quiet, method=big, evaluation=probe, training=long), tmp_path / "run", stage="pretrain"
    )
    # 1.0 is what predicting each patch's mean costs.
    assert taught["loss"] < 0.9
    assert taught["knn_top1"] > fresh["knn_top1"]

    settings = run_settings(
        backbone=quiet, method={**big, **DMAE}, teacher={"source": str(tmp_path / "run")}, training=long
    )
    pretrain(settings, tmp_path / "student", stage="distill")
    losses = (tmp_path / "student" / "logs" / "csv" / "from-step-000000000" / "metrics.csv").read_text().splitlines()
    column = losses[0].split(",").index("loss/alignment")
    assert float(losses[-1].split(",")[column]) < 0.7 * float(losses[1].split(",")[column])


def test_a_finished_run_can_teach(teacher: Path, contract: Preprocess) -> None:
    loaded = load_teacher(str(teacher), {}, student=contract)
    assert loaded.adapter.depth == 4
    assert loaded.own_statistics(torch.zeros(1, 3, 16, 16)).abs().max() > 0.01
