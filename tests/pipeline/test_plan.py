"""The quickstart's plan: what follows from the images, and what from the speed of the machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgemim.data.open import Splits, open_splits
from edgemim.models.build import build_backbone
from edgemim.pipeline import plan as module
from edgemim.pipeline.plan import Plan, make_plan
from edgemim.pipeline.speed import Speed

STAGES = ("teacher", "teacher_finetune", "student", "student_finetune")


@pytest.fixture(scope="module")
def digits() -> Splits:
    return open_splits("digits")


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds per step that the machine is taken to need, by stage."""
    seconds = dict.fromkeys(STAGES, 0.02)
    monkeypatch.setattr(module, "measure_speed", lambda *_, **__: Speed(threads=1, seconds=seconds))
    return seconds


def planned(splits: Splits, minutes: float, *, digits: bool = False, said: list[str] | None = None) -> Plan:
    say = (said if said is not None else []).append
    return make_plan(splits, digits=digits, minutes=minutes, seed=0, say=say)


def test_twice_the_budget_is_twice_the_steps(digits: Splits, speed: dict[str, float]) -> None:
    overhead = module._overhead(len(digits.test))
    once = planned(digits, (overhead + 600) / 60)
    twice = planned(digits, (overhead + 1200) / 60)
    for stage in STAGES:
        assert twice.steps()[stage] == pytest.approx(2 * once.steps()[stage], abs=1)


def test_the_steps_take_their_shares_of_the_time(digits: Splits, speed: dict[str, float]) -> None:
    speed["teacher"] = 0.08
    plan = planned(digits, (module._overhead(len(digits.test)) + 600) / 60)
    for stage in STAGES:
        assert plan.steps()[stage] * speed[stage] == pytest.approx(600 * module._SHARES[stage], rel=0.01)
    # The student without a teacher repeats both stages of the student; it must fit into the same minutes.
    alone = module._SHARES["student"] + module._SHARES["student_finetune"]
    assert sum(module._SHARES.values()) + alone <= 1.1


def test_time_that_is_over_is_not_planned_again(digits: Splits, speed: dict[str, float]) -> None:
    fresh = make_plan(digits, digits=False, minutes=10, seed=0, say=print)
    late = make_plan(digits, digits=False, minutes=10, seed=0, say=print, spent=300)
    assert late.teacher_steps < 0.6 * fresh.teacher_steps


def test_a_slow_machine_still_gets_the_least(digits: Splits, speed: dict[str, float]) -> None:
    speed.update(dict.fromkeys(STAGES, 60.0))
    assert set(planned(digits, 1).steps().values()) == {module._LEAST_STEPS}
    assert set(planned(digits, 1, digits=True).steps().values()) == {module._LEAST_STEPS}


def test_digits_have_enough_on_a_fast_machine(digits: Splits, speed: dict[str, float]) -> None:
    speed.update(dict.fromkeys(STAGES, 1e-4))
    assert planned(digits, 60, digits=True).steps() == module._ENOUGH_FOR_DIGITS
    more = planned(digits, 60).steps()
    assert all(more[stage] > module._ENOUGH_FOR_DIGITS[stage] for stage in STAGES)


def test_digits_are_not_mirrored(digits: Splits, speed: dict[str, float]) -> None:
    assert planned(digits, 2, digits=True).augmentation["flip"] is False
    assert planned(digits, 2).augmentation == {}


def test_the_student_is_smaller_and_has_the_teachers_patches(digits: Splits, speed: dict[str, float]) -> None:
    for embedded in (True, False):
        plan = planned(digits, 2, digits=embedded)
        sizes = []
        for values in (plan.teacher, plan.student):
            arguments = dict(values)
            model = build_backbone(arguments.pop("name"), arguments)
            sizes.append((sum(p.numel() for p in model.parameters()), model.patch_embed.grid_size))
        assert sizes[0][0] > 2 * sizes[1][0]
        assert sizes[0][1] == sizes[1][1]


def test_bigger_images_get_a_bigger_input(digits: Splits, speed: dict[str, float], photos: Path) -> None:
    small, big = planned(digits, 2).teacher, planned(open_splits(str(photos)), 2).teacher
    assert small["img_size"] == 32
    assert big["img_size"] > 32
    assert (big["img_size"] // big["patch_size"]) ** 2 >= 16


def test_a_batch_is_never_larger_than_the_set(speed: dict[str, float], photos: Path) -> None:
    splits = open_splits(str(photos))
    assert planned(splits, 2).batch_size == len(splits.train)


def test_a_measured_plan_names_the_speed_of_every_stage(digits: Splits) -> None:
    said: list[str] = []
    plan = planned(digits, 1.5, digits=True, said=said)
    (line,) = said
    assert re.match(r"about 1.5 minutes with \d+ threads; measured ms per step: ", line)
    assert all(f"{stage} " in line for stage in STAGES)
    assert min(plan.steps().values()) >= module._LEAST_STEPS


def test_training_settings_of_a_stage(digits: Splits, speed: dict[str, float]) -> None:
    plan = planned(digits, 2, digits=True)
    assert plan.training(7) == {"steps": 7, "batch_size": plan.batch_size, **plan.optimiser}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 labelled images of 120 x 90."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    for i in range(20):
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        values = np.random.default_rng(i).integers(0, 256, (90, 120, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / "ab"[i % 2] / f"{i:02}.png")
    return folder
