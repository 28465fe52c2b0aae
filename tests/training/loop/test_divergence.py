"""A loss that runs away is found; one that warms up, jumps once or comes near zero is left alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from torch import nn

from edgemim.errors import TrainingError
from edgemim.methods._base import Batch, Step
from edgemim.training.loop.divergence import LossWatch
from edgemim.training.loop.fit import Fitted
from edgemim.training.saving.state import LAST, VerifiedCheckpointIO, states
from edgemim.training.settings.run import RunSettings


def found(losses: Iterable[float], factor: float = 10.0) -> list[int]:
    """At which looks something is wrong."""
    watch = LossWatch(factor)
    return [i for i, loss in enumerate(losses) if watch.see({"loss": loss}) is not None]


@pytest.mark.parametrize(
    "losses",
    [
        [1.0] * 20,
        [1.0, 0.9, 0.8, 1.5, 3.0, 6.0, 4.0, 2.0, 1.0, 0.7],  # a warm-up that first makes it worse
        [1.0] * 8 + [500.0] + [1.0] * 8,  # one bad batch
        [1.0] * 8 + [500.0, 500.0] + [1.0] * 8,  # and two
        [2.3, 1.0, 0.5, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-5, 1e-5, 0.02, 0.5, 0.02, 0.5, 0.01],  # nearly learnt by heart
        [0.0] * 5 + [1e-3] * 10,  # from a student that is its teacher
        [-1.0, -2.0, -3.0, -2.0, -1.0, 0.0, 0.0, 0.0],
    ],
)
def test_what_is_no_divergence(losses: list[float]) -> None:
    assert found(losses) == []


def test_a_loss_that_stays_high_is_found_at_its_third_look() -> None:
    # The median of five is high as soon as three of them are.
    assert found([1.0] * 6 + [11.0] * 4)[0] == 8
    assert found([1.0] * 6 + [9.0] * 4) == []


def test_the_lowest_counts_and_not_the_first() -> None:
    assert found([1.0] * 5 + [0.2] * 5 + [2.1] * 3) == [12]


def test_it_can_be_turned_off() -> None:
    assert found([1.0] * 6 + [1e9] * 10, factor=0) == []


def test_it_names_the_term_that_grew_most() -> None:
    watch = LossWatch(10)
    for _ in range(5):
        watch.see({"loss": 2.0, "loss/near": 1.0, "loss/far": 1.0, "loss/far_unscaled": 0.1, "lr": 1.0})
    wrong = None
    for _ in range(3):
        wrong = watch.see({"loss": 32.0, "loss/near": 2.0, "loss/far": 30.0, "loss/far_unscaled": 3.0, "lr": 99.0})
    assert wrong == (
        "the loss is diverging: smoothed 32, 16.0 times the lowest, 2; above all loss/far, 30, whose lowest was 1"
    )


def test_one_high_look_is_suspect_already() -> None:
    watch = LossWatch(10)
    for _ in range(5):
        watch.see({"loss": 1.0})
    assert not watch.suspect
    watch.see({"loss": 50.0})
    assert watch.suspect
    watch.see({"loss": 1.0})
    assert not watch.suspect


def test_it_goes_on_where_it_was_saved() -> None:
    whole, first, second = LossWatch(10), LossWatch(10), LossWatch(10)
    losses = [1.0, 1.1, 0.9, 1.0, 1.0, 30.0, 30.0, 30.0]
    for loss in losses[:6]:
        first.see({"loss": loss})
    second.restore(json.loads(json.dumps(first.state())))
    told = [second.see({"loss": loss}) for loss in losses[6:]]
    assert [whole.see({"loss": loss}) for loss in losses][6:] == told
    assert told[-1] is not None


class Explodes(nn.Module):
    """A task whose loss doubles at each step from step 60 on, and stays finite."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.calls = 0

    def forward(self, batch: Batch, rng: torch.Generator) -> Step:
        loss = self.weight.square().sum() * 2 ** min(20.0, max(0.0, self.calls - 59.0))
        self.calls += 1
        return Step(loss, {"loss/task": loss.detach()})


def test_a_run_stops_names_the_step_and_keeps_the_states_from_before(
    train: Callable[..., Fitted], run_settings: Callable[..., RunSettings], tmp_path: Path
) -> None:
    slow = {"steps": 200, "save_minutes": 0.0, "base_lr": 1e-6, "weight_decay": 0.0}
    with pytest.raises(TrainingError, match=r"the loss is diverging: .* at step 90; .* --resume --accept-changes"):
        train(Explodes(), run_settings(training=slow), tmp_path)
    # Looked at every ten steps: high at 70, so that the state after step 70 is the last one that was saved.
    steps = [int(s.name[5:14]) for s in states(tmp_path / LAST)]
    assert steps == [70, 69]
    kept = states(tmp_path / "best")
    assert len(kept) == 1
    best = VerifiedCheckpointIO().load_checkpoint(kept[0])
    assert best["global_step"] <= 61
    assert math.isclose(float(best["state_dict"]["method.weight"][0]), 1.0, rel_tol=1e-3)
