"""The plan of the comparison: every method, equal updates, and keys that follow what a result depends on."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from _parts.comparison import Run, is_convnet, is_ranked, plan, rows, student_run, teacher_run
from _parts.cost import student_stage
from _parts.presets import CONVNET_BASELINES, PRESETS

from edgemim.config import load_recipe
from edgemim.methods import METHODS
from edgemim.models.build import build_backbone

CPU = PRESETS["cpu"]
# Of the first batch of methods, those that were ranked; the second batch is ranked as a whole.
FIRST = {"scratch", "scratch-long", "mae", "feature", "dmae"}
SECOND = {"amt", "cae", "caev2", "droppos", "gmml", "hpm", "mixedae", "mp3", "mto-experimental", "selfie", "sit"}
CONVNETS = {*CONVNET_BASELINES, "spark", "spark-dmae"}


def own_settings(row: str, preset: str = "cpu", **over: Any) -> dict[str, Any]:
    """Those of the method of a row, by which it is pretrained."""
    return dict(student_stage(student_run(row, PRESETS[preset], 0, **over)).settings["method"])


def test_every_method_has_a_row() -> None:
    assert set(rows().values()) - {""} == set(METHODS)
    assert {"scratch", "scratch-long", "mae", "minilm-v1", "minilm-v2"} <= set(rows())


def test_rows_of_convnets_are_those_whose_method_cannot_take_a_vit() -> None:
    assert {row for row in rows() if is_convnet(row)} == CONVNETS
    assert not is_convnet("amt-timed")


@pytest.mark.parametrize("preset", PRESETS)
def test_every_student_gets_the_same_updates(preset: str) -> None:
    sizes = PRESETS[preset]
    updates = {run.name: run.student_updates for run in plan(sizes, seeds=(0,)) if run.name != "teacher"}
    both = sizes.updates + sizes.finetune_updates
    assert updates.pop("scratch") == updates.pop("scratch-convnet") == sizes.finetune_updates
    assert set(updates.values()) == {both}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_student_is_the_same_model_of_its_kind_in_batches_of_the_same_size(preset: str) -> None:
    sizes = PRESETS[preset]
    for run in plan(sizes, seeds=(0,), in_time={"hpm": 3}):
        student = sizes.convnet if is_convnet(run.row) else sizes.student
        for stage in run.stages:
            assert stage.settings["training"]["batch_size"] == sizes.batch_size or stage.kind == "fresh"
            if stage.kind != "finetune":
                assert stage.settings["backbone"] == dict(sizes.teacher if run.name == "teacher" else student)


def test_a_convnet_is_told_the_size_of_its_images_and_sees_them_as_all_others_do() -> None:
    contracts = {run.row: dict(run.stages[0].settings["preprocess"]) for run in plan(CPU, seeds=(0,))}
    sizes = {row: contract.pop("size") for row, contract in contracts.items()}
    assert {row for row, size in sizes.items() if size == 32} == CONVNETS
    assert {row for row, size in sizes.items() if size == 0} == set(contracts) - CONVNETS
    assert all(contract == contracts["mae"] for contract in contracts.values())


def test_ranked_rows_run_with_every_seed_and_the_others_with_one() -> None:
    runs = [run for run in plan(CPU, seeds=(0, 1, 2)) if run.name != "teacher"]
    for row in rows():
        seeds = [run.seed for run in runs if run.name == row]
        assert seeds == ([0, 1, 2] if is_ranked(row, CPU) else [0])
    assert {row for row in rows() if is_ranked(row, CPU)} == FIRST | SECOND | CONVNETS
    assert all(is_ranked(row, PRESETS["gpu"]) for row in rows())


def test_what_is_ranked_is_a_row() -> None:
    for preset in PRESETS.values():
        assert set(preset.ranked) <= set(rows())


def test_early_runs_are_of_use_by_themselves() -> None:
    runs = plan(CPU, seeds=(0, 1), in_time={"hpm": 400, "feature": 300})
    names = list(dict.fromkeys(run.name for run in runs))
    baselines = ["scratch", "scratch-long", "mae", *CONVNET_BASELINES]
    assert names[: 1 + len(baselines)] == ["teacher", *baselines]
    ranked = 1 + len(FIRST | SECOND | CONVNETS)
    assert set(names[:ranked]) == {"teacher"} | FIRST | SECOND | CONVNETS
    assert names[ranked : ranked + 2] == ["hpm-timed", "feature-timed"]
    assert all(not is_ranked(name, CPU) for name in names[ranked + 2 :])
    # All seeds of a row, then the next: a row with some of them says nothing yet.
    assert [run.label for run in runs[1:5]] == [
        "scratch seed 0",
        "scratch seed 1",
        "scratch-long seed 0",
        "scratch-long seed 1",
    ]


def test_a_teacher_is_trained_only_where_a_row_needs_one_and_first() -> None:
    assert [run.name for run in plan(CPU, seeds=(0,), only=("mae", "scratch"))] == ["scratch", "mae"]
    assert [run.name for run in plan(CPU, seeds=(0,), only=("dmae",))] == ["teacher", "dmae"]
    assert [run.name for run in plan(CPU, seeds=(0,), only=("spark-dmae",))] == ["teacher", "spark-dmae"]


def test_an_unknown_row_is_named() -> None:
    with pytest.raises(SystemExit, match=r"--only has dmaee; the rows are scratch, .*end in -timed need --timed"):
        plan(CPU, seeds=(0,), only=("dmaee",))


def test_logit_learns_from_the_fine_tuned_teacher_and_the_others_from_the_pretrained_one() -> None:
    taught = {run.name: student_stage(run).teacher for run in plan(CPU, seeds=(0,)) if run.needs_teacher}
    assert taught.pop("logit") == "finetuned"
    assert set(taught.values()) == {"pretrained"}
    assert {"caev2", "spark-dmae"} <= set(taught)


def test_self_distillation_counts_what_its_student_was_trained_for() -> None:
    original, further, student, tuned = student_run("selfdistill", CPU, 0).stages
    assert (further.init, student.init, student.teacher) == ("original", "original", "further")
    assert [stage.counts for stage in (original, further, student, tuned)] == [True, False, True, True]


def test_every_student_is_fine_tuned_alike() -> None:
    for name, run in ((run.name, run) for run in plan(CPU, seeds=(0,)) if run.name != "teacher"):
        settings = dict(run.stages[-1].settings)
        training = dict(settings["training"])
        steps = {training.pop("steps"), training.pop("picture_steps")}
        longer = CPU.updates if name in ("scratch-long", "scratch-long-convnet") else 0
        assert steps == {CPU.finetune_updates + longer}
        expected = dict(student_run("mae", CPU, 0).stages[-1].settings)
        assert training == {k: v for k, v in expected["training"].items() if k not in ("steps", "picture_steps")}
        assert settings | {"training": None} == expected | {"training": None}


@pytest.mark.parametrize(("preset", "side"), [("cpu", 4), ("gpu", 8), ("tiny", 4)])
def test_a_mask_hides_and_leaves_some_of_the_patches(preset: str, side: int) -> None:
    import torch

    from edgemim.config import build
    from edgemim.masking import MASKINGS
    from edgemim.masking._base import MaskContext

    patch = 32 // side
    for run in plan(PRESETS[preset], seeds=(0,)):
        drawn = dict(student_stage(run).settings["masking"]) if run.method else {}
        if not drawn:
            continue
        masking = build(MASKINGS.get(drawn.pop("name")), drawn)
        # Whatever it looks at: some of it at some patches.
        signals = {name: torch.rand(4, side * side) for name in masking.needs}
        context = MaskContext(epoch_share=0.5, patch_size=(patch, patch), signals=signals)
        made = masking.sample(4, (side, side), torch.Generator().manual_seed(0), context)
        assert 0 < int(made.mask[0].sum()) < side * side, run.name


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_what_comes_every_so_many_epochs_comes_at_the_same_share_of_a_run_as_in_the_paper(preset: str) -> None:
    epochs = PRESETS[preset].updates * PRESETS[preset].batch_size / {"cpu": 10_000, "gpu": 50_000}[preset]
    amt, paper = own_settings("amt", preset), load_recipe("amt")
    for name in ("first_epoch", "refresh_epochs"):
        # Six digits are kept.
        assert amt[name] / epochs == pytest.approx(paper["method"][name] / paper["training"]["epochs"], abs=1e-6)
    # HPM: the decay grows in half of the run (100 of 200 epochs), as its published command has it.
    assert own_settings("hpm", preset)["ema_epochs"] / epochs == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_the_copy_of_hpm_forgets_in_the_same_share_of_a_run_as_in_the_paper(preset: str) -> None:
    method = METHODS.get("hpm").Settings()
    # 200 epochs of 1,281,167 images in batches of 2,048.
    of_paper = 200 * 1_281_167 / 2_048
    for name in ("ema_decay", "ema_decay_end"):
        memory = 1 / (1 - own_settings("hpm", preset)[name])
        wanted = 1 / (1 - getattr(method, name)) / of_paper
        # The decay has six digits, its distance from 1 at least three.
        assert memory / PRESETS[preset].updates == pytest.approx(wanted, rel=2e-3)


def test_a_run_in_the_time_of_mae_differs_in_its_updates_alone() -> None:
    for row in ("hpm", "amt", "scratch-long", "selfdistill"):
        usual, timed = student_run(row, CPU, 1), student_run(row, CPU, 1, in_time=417)
        assert (timed.name, timed.row, timed.seed) == (f"{row}-timed", row, 1)
        assert timed.student_updates == 417 + CPU.finetune_updates
        assert len(timed.stages) == len(usual.stages)
        for one, other in zip(timed.stages, usual.stages, strict=True):
            lengths = {"steps": None, "picture_steps": None}
            first, second = ({**s.settings, "training": s.settings["training"] | lengths} for s in (one, other))
            assert first == second
    assert own_settings("amt", in_time=417) == own_settings("amt")


def test_rows_in_time_have_names_and_seeds_of_their_own() -> None:
    runs = plan(CPU, seeds=(0, 1), only=("hpm-timed", "dmae-timed"), in_time={"hpm": 400, "dmae": 700, "amt": 500})
    assert [run.label for run in runs if run.row != "teacher"] == [
        "hpm-timed seed 0",
        "hpm-timed seed 1",
        "dmae-timed seed 0",
        "dmae-timed seed 1",
    ]
    assert runs[0].name == "teacher"
    assert [run.in_time for run in runs[1:]] == [400, 400, 700, 700]


def key(run: Run, *, data: str = "images", teacher: str = "teacher") -> str:
    return run.key(data, teacher)


def test_a_key_changes_with_settings_seed_and_images() -> None:
    run = student_run("mae", CPU, 0)
    shorter = student_run("mae", dataclasses.replace(CPU, updates=CPU.updates - 1), 0)
    timed = [student_run("mae", CPU, 0, in_time=updates) for updates in (500, 501)]
    assert key(run) == key(student_run("mae", CPU, 0))
    keys = {key(run), key(shorter), key(student_run("mae", CPU, 1)), key(run, data="others"), *map(key, timed)}
    assert len(keys) == 6


def test_another_teacher_changes_the_keys_of_its_students_only() -> None:
    for name, taught in (("dmae", True), ("mae", False)):
        run = student_run(name, CPU, 0)
        assert (key(run) != key(run, teacher="another")) is taught


def test_the_teacher_is_the_bigger_model() -> None:
    def size(shape: dict[str, object]) -> int:
        arguments = {k: v for k, v in shape.items() if k != "name"}
        return sum(p.numel() for p in build_backbone(str(shape["name"]), arguments).parameters())

    for preset in PRESETS.values():
        assert size(dict(preset.teacher)) > 1.5 * max(size(dict(preset.student)), size(dict(preset.convnet)))
    assert len(teacher_run(CPU).stages) == 2
