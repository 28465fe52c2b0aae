"""`edgemim.runtime.caveats`: what the device itself adds to a report."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from edgemim.runtime.bundle import load_bundle
from edgemim.runtime.caveats import caveats
from edgemim.runtime.device import describe_device
from edgemim.runtime.plan import Plan

AS_MADE = {"max_levels": 0, "max_abs": 0.0}


def of(world: SimpleNamespace, **facts: Any) -> list[str]:
    device = replace(describe_device(), **{"governor": None, "l4t": None, "emulated": False, **facts})
    return caveats(load_bundle(world.bundle()), device, Plan(pairs=(), skipped={}), [], None, AS_MADE)


def test_the_latencies_of_an_emulated_processor_are_not_to_be_trusted(world: SimpleNamespace) -> None:
    (found,) = [caveat for caveat in of(world, emulated=True, machine="aarch64") if "emulated" in caveat]
    assert found.startswith("the aarch64 processor is emulated by another kind of processor (qemu-user)")
    assert found.endswith("latencies and energies mean nothing")


def test_a_processor_that_may_be_real_is_not_called_emulated(world: SimpleNamespace) -> None:
    assert not any("emulated" in caveat for caveat in of(world, emulated=None, machine="aarch64"))


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"governor": "schedutil", "clocks_locked": False}, "the CPU governor is schedutil"),
        ({"governor": "schedutil", "clocks_locked": None}, "the CPU governor is schedutil"),
        ({"governor": "performance", "clocks_locked": False}, None),
        ({"governor": "schedutil", "clocks_locked": True, "l4t": "36.4.3"}, None),
        ({"governor": "schedutil", "clocks_locked": False, "l4t": "36.4.3"}, "sudo jetson_clocks"),
    ],
)
def test_a_clock_that_can_float_is_told_once(world: SimpleNamespace, facts: dict[str, Any], words: str | None) -> None:
    found = [caveat for caveat in of(world, **facts) if "float" in caveat]
    assert len(found) == (words is not None)
    assert (words or "") in "".join(found)
