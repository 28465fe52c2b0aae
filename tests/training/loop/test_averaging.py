"""The moving average of the weights: what it is, that it ships, and that a resumed run has the same one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from edgemim.errors import TrainingError
from edgemim.methods._base import Batch, Method, Step
from edgemim.training.loop.fit import Fitted
from edgemim.training.saving.save import Interrupted
from edgemim.training.saving.state import VerifiedCheckpointIO, newest_state
from edgemim.training.settings.run import RunSettings

Train = Callable[..., Fitted]
MakeMAE = Callable[..., Method]
MakeSettings = Callable[..., RunSettings]


class Counts(nn.Module):
    """A task whose weight an ordinary optimiser would move by a known amount; remembers what it was at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))
        self.history: list[float] = []

    def forward(self, batch: Batch, rng: torch.Generator) -> Step:
        self.history.append(float(self.weight.detach()))
        self.seen += 1
        return Step(-self.weight)


def test_the_average_follows_fast_at_first_and_then_by_its_decay(
    train: Train, run_settings: MakeSettings, tmp_path: Path
) -> None:
    constant = {"schedule": "step", "step_at": 1.0, "warmup": 0.0, "weight_decay": 0.0}
    settings = run_settings(training={"steps": 6, "ema": 0.4, **constant})
    task = Counts()
    train(task, settings, tmp_path)
    # AdamW moves a weight with a constant gradient by the learning rate, 0.01, at each step.
    after = [*task.history[1:], task.history[-1] + 0.01]
    assert task.history[1] == pytest.approx(0.01, rel=1e-4)
    average = 0.0
    for step, weight in enumerate(after, start=1):
        decay = min(0.4, (1 + step) / (10 + step))  # 2/11, 3/12, 4/13, 5/14, 0.4, 0.4
        average = decay * average + (1 - decay) * weight
    assert float(task.weight.detach()) == pytest.approx(average, rel=1e-3)
    assert float(task.seen) == 6  # buffers are no weights


@pytest.mark.parametrize("stops", [[1], [3, 4]])
def test_a_resumed_run_has_the_same_average_bit_by_bit(
    train: Train, make_mae: MakeMAE, run_settings: MakeSettings, tmp_path: Path, stops: list[int]
) -> None:
    settings = run_settings(training={"steps": 6, "ema": 0.9})
    whole, raw = make_mae(), make_mae()
    train(whole, settings, tmp_path / "whole")
    train(raw, run_settings(training={"steps": 6}), tmp_path / "raw")
    for done, stop in enumerate(stops):
        with pytest.raises(Interrupted):
            train(make_mae(seed=done), settings, tmp_path / "run", stop_at=stop, resume=done > 0)
    parts = make_mae(seed=9)
    train(parts, settings, tmp_path / "run", resume=True)
    ended = make_mae(seed=8)
    train(ended, settings, tmp_path / "run", resume=True)  # finds every step done
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, parts.state_dict()[name])
        assert torch.equal(weight, ended.state_dict()[name])
    assert any(not torch.equal(a, b) for a, b in zip(whole.parameters(), raw.parameters(), strict=True))
    # What goes on training are the weights themselves.
    found = newest_state(tmp_path / "run")
    assert found is not None
    saved = VerifiedCheckpointIO().load_checkpoint(found[0])["state_dict"]
    assert all(torch.equal(saved[f"method.{name}"], weight) for name, weight in raw.state_dict().items())


@pytest.mark.parametrize("stop", [3, 6])
def test_without_a_saved_average_there_is_none_to_go_on_from(
    train: Train, make_mae: MakeMAE, run_settings: MakeSettings, tmp_path: Path, stop: int
) -> None:
    with pytest.raises(Interrupted):
        train(make_mae(), run_settings(training={"steps": 6}), tmp_path, stop_at=stop)
    with pytest.raises(TrainingError, match=rf"step {stop} holds no averaged weights, training\.ema is 0\.9"):
        train(make_mae(), run_settings(training={"steps": 6, "ema": 0.9}), tmp_path, resume=True)
