"""docs/report-schema.md names every key of a sweep."""

from __future__ import annotations

from typing import Any

import pytest

from tests.runtime.report.test_schema import assert_documented

TIMES = {f"test_resnet-{side}": {"fp32": ms} for side, ms in ((32, 1.0), (64, 2.0))}


@pytest.mark.parametrize("budget", [{"max_ms": 5.0}, {}])
def test_every_key_of_a_sweep_is_documented_and_there(machine: Any, sweep: Any, budget: dict[str, float]) -> None:
    assert_documented("sweep", sweep(machine(TIMES), sizes=(32, 64), **budget))
