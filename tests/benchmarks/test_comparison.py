"""The plan of the comparison: every method, equal updates, and keys that follow what a result depends on."""

from __future__ import annotations

import dataclasses

import pytest
from _parts.comparison import PRESETS, Run, is_ranked, plan, rows, student_run, teacher_run
from _parts.cost import student_stage

from edgemim.methods import METHODS
from edgemim.models.build import build_backbone

CPU = PRESETS["cpu"]


def test_every_method_has_a_row() -> None:
    assert set(rows(CPU).values()) - {""} == set(METHODS)
    assert {"scratch", "scratch-long", "mae", "minilm-v1", "minilm-v2"} <= set(rows(CPU))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_student_gets_the_same_updates(preset: str) -> None:
    sizes = PRESETS[preset]
    updates = {run.name: run.student_updates for run in plan(sizes, seeds=(0,)) if run.name != "teacher"}
    both = sizes.updates + sizes.finetune_updates
    assert updates.pop("scratch") == sizes.finetune_updates
    assert set(updates.values()) == {both}


def test_every_student_is_the_same_model_in_batches_of_the_same_size() -> None:
    for run in plan(CPU, seeds=(0,)):
        for stage in run.stages:
            assert stage.settings["training"]["batch_size"] == CPU.batch_size or stage.kind == "fresh"
            if stage.kind != "finetune":
                assert stage.settings["backbone"] == dict(CPU.teacher if run.name == "teacher" else CPU.student)


def test_ranked_rows_run_with_every_seed_and_the_others_with_one() -> None:
    runs = [run for run in plan(CPU, seeds=(0, 1, 2)) if run.name != "teacher"]
    for row in rows(CPU):
        seeds = [run.seed for run in runs if run.name == row]
        assert seeds == ([0, 1, 2] if is_ranked(row, CPU) else [0])
    assert {row for row in rows(CPU) if is_ranked(row, CPU)} == {"scratch", "scratch-long", "mae", "feature", "dmae"}
    assert all(is_ranked(row, PRESETS["gpu"]) for row in rows(PRESETS["gpu"]))


def test_a_teacher_is_trained_only_where_a_row_needs_one_and_first() -> None:
    assert [run.name for run in plan(CPU, seeds=(0,), only=("mae", "scratch"))] == ["scratch", "mae"]
    assert [run.name for run in plan(CPU, seeds=(0,), only=("dmae",))] == ["teacher", "dmae"]


def test_an_unknown_row_is_named() -> None:
    with pytest.raises(SystemExit, match="--only has dmaee; the rows are scratch"):
        plan(CPU, seeds=(0,), only=("dmaee",))


def test_logit_learns_from_the_fine_tuned_teacher_and_the_others_from_the_pretrained_one() -> None:
    taught = {run.name: student_stage(run).teacher for run in plan(CPU, seeds=(0,)) if run.needs_teacher}
    assert taught.pop("logit") == "finetuned"
    assert set(taught.values()) == {"pretrained"}


def test_self_distillation_counts_what_its_student_was_trained_for() -> None:
    original, further, student, tuned = student_run("selfdistill", CPU, 0).stages
    assert (further.init, student.init, student.teacher) == ("original", "original", "further")
    assert [stage.counts for stage in (original, further, student, tuned)] == [True, False, True, True]


def test_every_student_is_fine_tuned_alike() -> None:
    for name, run in ((run.name, run) for run in plan(CPU, seeds=(0,)) if run.name != "teacher"):
        settings = dict(run.stages[-1].settings)
        training = dict(settings["training"])
        steps = {training.pop("steps"), training.pop("picture_steps")}
        longer = CPU.updates if name == "scratch-long" else 0
        assert steps == {CPU.finetune_updates + longer}
        expected = dict(student_run("mae", CPU, 0).stages[-1].settings)
        assert training == {k: v for k, v in expected["training"].items() if k not in ("steps", "picture_steps")}
        assert settings | {"training": None} == expected | {"training": None}


def test_a_mask_hides_and_leaves_some_of_sixteen_patches() -> None:
    import torch

    from edgemim.config import build
    from edgemim.masking import MASKINGS
    from edgemim.masking._base import MaskContext

    for run in plan(CPU, seeds=(0,)):
        drawn = dict(student_stage(run).settings["masking"]) if run.method else {}
        if not drawn or drawn["name"] == "attention":
            continue
        masking = build(MASKINGS.get(drawn.pop("name")), drawn)
        made = masking.sample(4, (4, 4), torch.Generator().manual_seed(0), MaskContext(patch_size=(8, 8)))
        assert 0 < int(made.mask[0].sum()) < 16, run.name


def key(run: Run, *, data: str = "images", teacher: str = "teacher") -> str:
    return run.key(data, teacher)


def test_a_key_changes_with_settings_seed_and_images() -> None:
    run = student_run("mae", CPU, 0)
    shorter = student_run("mae", dataclasses.replace(CPU, updates=CPU.updates - 1), 0)
    assert key(run) == key(student_run("mae", CPU, 0))
    assert len({key(run), key(shorter), key(student_run("mae", CPU, 1)), key(run, data="others")}) == 4


def test_another_teacher_changes_the_keys_of_its_students_only() -> None:
    for name, taught in (("dmae", True), ("mae", False)):
        run = student_run(name, CPU, 0)
        assert (key(run) != key(run, teacher="another")) is taught


def test_the_teacher_is_the_bigger_model() -> None:
    def size(shape: dict[str, object]) -> int:
        arguments = {k: v for k, v in shape.items() if k != "name"}
        return sum(p.numel() for p in build_backbone(str(shape["name"]), arguments).parameters())

    for preset in PRESETS.values():
        assert size(dict(preset.teacher)) > 1.5 * size(dict(preset.student))
    assert len(teacher_run(CPU).stages) == 2
