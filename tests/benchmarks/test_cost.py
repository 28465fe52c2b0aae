"""What an update is said to cost: with what a method does after it, and with its looks at all images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from _parts.comparison import student_run
from _parts.cost import FINETUNE, FINETUNE_CONVNET, Work, looks_in_a_run, measure_seconds, spread_looks, student_stage
from _parts.presets import PRESETS
from torch import Tensor

TINY = PRESETS["tiny"]


def work(row: str, preset: Any = TINY) -> Work:
    return Work(student_stage(student_run(row, preset, 0)), Path("no teachers"), preset)


class Looks:
    """Looks at all images whenever so many epochs are over."""

    memory: Any = None

    def __init__(self, every: float) -> None:
        self.every = every

    def look(self, images: Tensor) -> Tensor:
        return images

    def is_due(self, before: float, after: float) -> bool:
        return int(after / self.every) > int(before / self.every)


def test_looks_are_spread_over_the_updates() -> None:
    seconds = {"amt": [0.2, 0.3, 0.1], "amt, looking at all images": [1.0, 2.0, 1.0], "mae": [0.2, 0.2, 0.2]}
    preset = dataclasses.replace(PRESETS["cpu"], updates=1000)
    # 100 of 10,000 images take 1, 2 and 1 s, all of them 100, 200 and 100 s; nine times that in 1,000 updates.
    added = spread_looks(seconds, "amt", preset, looks=9, images=100)
    assert seconds == {"amt": pytest.approx([1.1, 2.1, 1.0]), "mae": [0.2, 0.2, 0.2]}
    assert added == {"alone_s": 0.2, "looks": 9, "look_s": 100.0}


@pytest.mark.parametrize(("every", "looks"), [(1.0, 2), (0.5, 5), (5.0, 0)])
def test_looks_are_counted_as_a_run_takes_them(every: float, looks: int) -> None:
    # 12 updates of 8 of 32 images are 3 epochs. The last look would come when the run is over.
    preset = dataclasses.replace(TINY, train_images=32, batch_size=8, updates=12)
    assert looks_in_a_run(Looks(every), preset) == looks


def test_amt_looks_nine_times_in_a_run_and_other_methods_never() -> None:
    assert work("mae").looks == 0
    cpu = PRESETS["cpu"]
    small = dataclasses.replace(cpu, student=TINY.student)
    found = work("amt", small)
    # After each tenth of the run but the last.
    assert found.looks == 9
    before = found.method.memory.rows.clone()
    found.look()
    rows = found.method.memory.rows
    assert rows.shape == (len(found.images), 16)
    assert not torch.equal(rows, before)
    assert found.method.training


def test_an_update_is_one_of_the_middle_of_a_run() -> None:
    seen: list[Any] = []
    found = work("amt")
    forward = found.method.forward

    def watched(batch: Any, rng: torch.Generator) -> Any:
        seen.append(batch)
        return forward(batch, rng)

    found.method.forward = watched
    found.update()
    (batch,) = seen
    assert batch.epoch_share == 0.5
    assert batch.epoch == TINY.epochs / 2
    assert batch.images.shape == (16, 3, 32, 32)
    assert batch.crops is not None
    # By then masks follow what the method remembers, and patches are thrown away.
    assert found.method.signals(batch)["own_attention"].shape == (16, 16)


def test_methods_with_two_crops_get_them() -> None:
    work("gmml").update()


def test_a_copy_follows_in_an_update() -> None:
    found = work("hpm")
    copy = [p.clone() for p in found.method.momentum.parameters()]
    found.update()
    after = list(found.method.momentum.parameters())
    assert any(not torch.equal(one, other) for one, other in zip(copy, after, strict=True))


def test_the_cost_of_updates_is_compared_with_mae() -> None:
    runs = [student_run(name, TINY, 0) for name in ("mae", "dmae", "selfdistill", "amt", "spark")]
    rows = measure_seconds(runs, TINY, rounds=1, steps_per_round=1)
    assert set(rows) == {"mae", "dmae", "selfdistill", "amt", "spark", FINETUNE, FINETUNE_CONVNET}
    assert rows["mae"]["ratio"] == 1.0
    assert all(row["median_s"] > 0 for row in rows.values())
    assert {name for name, row in rows.items() if row["student"] == "convnet"} == {"spark", FINETUNE_CONVNET}
    assert rows["amt"]["looks"] == 3
    whole = rows["amt"]["alone_s"] + 3 * rows["amt"]["look_s"] / TINY.updates
    # Rounded to a millionth of a second.
    assert rows["amt"]["median_s"] == pytest.approx(whole, abs=3e-6)
    assert "looks" not in rows["mae"]
