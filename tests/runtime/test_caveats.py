"""`edgemim.runtime.caveats`: what the device itself adds to a report."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgemim.runtime.bundle import load_bundle
from edgemim.runtime.caveats import caveats
from edgemim.runtime.device import describe_device
from edgemim.runtime.environment.watch import EnvironmentWatch
from edgemim.runtime.latency.summary import Samples, summarise
from edgemim.runtime.plan import Plan, make_plan
from edgemim.runtime.trial import Trial

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


def test_what_the_machine_did_meanwhile_is_among_the_caveats(world: SimpleNamespace) -> None:
    with EnvironmentWatch(world.tmp / "nothing to read") as watch:
        pass
    busy = replace(watch.summary(), others_cpu=0.4)
    device = describe_device()
    bundle, plan = load_bundle(world.bundle()), Plan(pairs=(), skipped={})
    found = caveats(bundle, device, plan, [], None, AS_MADE, busy)
    assert set(found) - set(caveats(bundle, device, plan, [], None, AS_MADE)) == {
        "the machine was busy while measuring: other processes took 40% of the CPUs"
    }


@pytest.mark.parametrize("settled", [True, False, None])
def test_a_warm_up_that_did_not_settle_is_told(world: SimpleNamespace, settled: bool | None) -> None:
    bundle = load_bundle(world.bundle())
    plan = make_plan(bundle, [world.Fake()], ["fp32"], describe_device())
    samples = Samples(
        nanoseconds=np.array([1_000_000]),
        rounds=np.zeros(1, np.int32),
        warmup_runs=70,
        warmup_s=2.04,
        settled=settled,
    )
    trials = [Trial(pair=pair, latency=summarise(samples)) for pair in plan.pairs if pair.timed] * 3
    found = [c for c in caveats(bundle, describe_device(), plan, trials, None, AS_MADE) if "warming up" in c]
    expected = (
        "warming up did not settle within its time: medians of the last runs still differed by more than 1%, or "
        "the board still got warmer, of fp32 on fake (2.0 s), fp32 on fake (2.0 s) and fp32 on fake (2.0 s)"
    )
    assert found == ([expected] if settled is False else [])
