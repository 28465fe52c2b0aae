"""The lines of a run whose stderr is no terminal, and the bar of one where it is."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from edgemim.training.shown import progress
from edgemim.training.shown.progress import ProgressCallback


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A fake clock that stands still unless it is moved."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.seconds)
    return now


@pytest.fixture
def lines(clock: SimpleNamespace) -> Callable[..., list[str]]:
    """`lines(steps, step_s)`: what a run of so many steps, each of which takes so long, prints."""

    def run(steps: int, step_s: float, terminal: bool = False, logged: bool = True) -> list[str]:
        out = io.StringIO()
        bar = ProgressCallback("test", 8, Console(file=out, force_terminal=terminal, width=200))
        trainer: Any = SimpleNamespace(global_step=0, max_steps=steps, accumulate_grad_batches=1)
        metrics = {"loss": 0.5, "gradient_norm": 1.25, "data_wait": 0.031} if logged else {}
        module: Any = SimpleNamespace(metrics=metrics, measured={4: 0.75})
        bar.on_train_start(trainer, module)
        for batch in range(steps):
            clock.seconds += step_s
            trainer.global_step = batch + 1
            bar.on_train_batch_end(trainer, module, None, None, batch)
        bar.on_train_end(trainer, module)
        return out.getvalue().splitlines()

    return run


def test_a_line_says_how_fast_it_goes_what_came_out_and_how_long_it_takes(lines: Callable[..., list[str]]) -> None:
    first, *_, last = lines(100, 2.0)
    assert first == "test 25/100 4 images/s loss 0.5000, gradient 1.25, data wait 3%, k-NN 0.750, 0:02:30 left"
    assert last.startswith("test 100/100 ")
    assert last.endswith(", 0:00:00 left")
    assert lines(100, 2.0, logged=False)[0] == "test 25/100 4 images/s, k-NN 0.750, 0:02:30 left"


def test_there_are_four_lines_and_in_a_long_run_one_every_ten_minutes(lines: Callable[..., list[str]]) -> None:
    assert [line.split()[1] for line in lines(8, 1.0)] == ["2/8", "4/8", "6/8", "8/8"]
    assert [line.split()[1] for line in lines(8, 500.0)] == ["2/8", "4/8", "6/8", "8/8"]
    assert [line.split()[1] for line in lines(8, 700.0)] == [f"{step}/8" for step in range(1, 9)]


def test_a_terminal_gets_a_bar_with_the_same_numbers(lines: Callable[..., list[str]]) -> None:
    drawn = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", "\n".join(lines(4, 2.0, terminal=True)))
    assert "4/4" in drawn
    assert "4 images/s loss 0.5000, gradient 1.25, data wait 3%, k-NN 0.750" in drawn
