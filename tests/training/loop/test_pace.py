"""Images per second and the share of the time spent waiting for images."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgemim.methods._base import Batch, Step
from edgemim.preprocess import Preprocess
from edgemim.training.feed.images import AugmentedImages
from edgemim.training.loop.fit import fit
from edgemim.training.settings.run import RunSettings


class Sleeps(nn.Module):
    """A task that takes a known time and learns nothing."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.seconds = seconds

    def forward(self, batch: Batch, rng: torch.Generator) -> Step:
        time.sleep(self.seconds)
        return Step(self.weight.square().sum())


def slowly(images: AugmentedImages, seconds: float, monkeypatch: pytest.MonkeyPatch) -> AugmentedImages:
    """The same images, each batch of which takes so long."""
    read = AugmentedImages.__getitems__

    def wait(self: AugmentedImages, places: Any) -> Any:
        time.sleep(seconds)
        return read(self, places)

    monkeypatch.setattr(AugmentedImages, "__getitems__", wait)
    return images


@pytest.mark.parametrize(("feed_s", "step_s", "low", "high"), [(0.0, 0.03, 0.0, 0.3), (0.06, 0.01, 0.5, 0.9)])
def test_the_wait_for_images_is_told_from_the_step(
    augmented: Callable[..., AugmentedImages],
    run_settings: Callable[..., RunSettings],
    contract: Preprocess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    feed_s: float,
    step_s: float,
    low: float,
    high: float,
) -> None:
    images = slowly(augmented(24), feed_s, monkeypatch)
    settings = run_settings(training={"steps": 21, "batch_size": 4, "workers": 0})
    fitted = fit(Sleeps(step_s), images, settings, contract, run=tmp_path, title="test")
    # Sleeps are a lower bound, and other processes may slow down the rest: wide limits.
    assert low <= fitted.data_wait < high
    with open(tmp_path / "logs" / "csv" / "from-step-000000000" / "metrics.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(r["step"]) for r in rows] == [0, 10, 20]
    for row in rows[1:]:
        assert low <= float(row["data_wait"]) < high
        assert 0 < float(row["images_per_second"]) < 4 / (feed_s + step_s)


def test_the_gradient_norm_is_that_before_clipping(
    augmented: Callable[..., AugmentedImages],
    run_settings: Callable[..., RunSettings],
    contract: Preprocess,
    tmp_path: Path,
) -> None:
    settings = run_settings(training={"steps": 1, "clip_grad": 0.1, "accumulate": 2})
    fit(Sleeps(0.0), augmented(24), settings, contract, run=tmp_path, title="test")
    with open(tmp_path / "logs" / "csv" / "from-step-000000000" / "metrics.csv") as stream:
        (row,) = csv.DictReader(stream)
    # The gradient of w² at (1, 1) is (2, 2), whose norm is √8.
    assert float(row["gradient_norm"]) == pytest.approx(8**0.5)
