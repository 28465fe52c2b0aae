"""Comparisons of the fake backend's candidates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgemim.runtime.compare import compare as module
from edgemim.runtime.compare.bootstrap import ratio_interval
from edgemim.runtime.compare.compare import compare
from edgemim.runtime.compare.interleave import Turns
from edgemim.runtime.device import describe_device
from edgemim.runtime.latency.protocol import LatencyProtocol
from edgemim.runtime.predict.choice import Choice, find_choice


@pytest.fixture
def chosen(world: SimpleNamespace) -> Callable[..., Choice]:
    """`chosen(bundle, "fp32", slower_s=)` on a fake backend of its own; a run takes 0.2 ms, and so much more."""

    def choose(path: Path, name: str = "fp32", *, slower_s: float = 0.0, fault: str | None = None) -> Choice:
        faults = {} if fault is None else {name: fault}
        backend = world.Fake(faults, {name: 0.0002 + slower_s})
        return find_choice(path, describe_device(), candidate=name, backend=backend, threads=1)

    return choose


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few openings without waiting, and few resamples; no test looks at the ratios that come out."""
    short = Turns(runs=8, seconds=0, openings=8, settle_s=0, turn_s=0, reopened_runs=1, reopened_s=0)
    calm = LatencyProtocol(mode="custom", warmup_runs=1, warmup_s=0, warmup_most_s=0)
    monkeypatch.setattr(module, "turns_for", lambda protocol: short)
    monkeypatch.setattr(module, "protocol_for", lambda mode, **options: calm)
    monkeypatch.setattr(module, "ratio_interval", partial(ratio_interval, resamples=100))


@pytest.fixture
def compared(world: SimpleNamespace) -> Callable[..., dict[str, Any]]:
    """Compare, briefly, into `report`."""

    def run(*given: Any, **options: Any) -> dict[str, Any]:
        plain = {"seconds": 0.01, "runs": 64, "cache": world.tmp / "cache"}
        return compare(given, world.tmp / "report", **{**plain, **options})

    return run
