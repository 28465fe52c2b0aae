"""Latency, and power meanwhile, of the trials that are in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy.typing as npt

from edgemim.runtime.bundle import Bundle
from edgemim.runtime.latency.measure import measure_latency
from edgemim.runtime.latency.protocol import LatencyProtocol
from edgemim.runtime.latency.summary import summarise
from edgemim.runtime.power.meter import PowerMeter
from edgemim.runtime.trial import Trial, still_in


def time_together(
    trials: Sequence[Trial],
    bundle: Bundle,
    protocol: LatencyProtocol,
    meter: PowerMeter,
    progress: Callable[[int, int], None],
) -> None:
    """Measure the latency of every trial that is in and not a mere reference, in turns, and the power meanwhile.

    Raises:
        DeviceError: A session that ran before fails now.
    """
    inputs, _ = next(bundle.golden_batches())
    timed = {trial.label: trial for trial in still_in(trials) if trial.pair.timed}
    calls = {label: _call(trial, inputs) for label, trial in timed.items()}
    told = {label: partial(_device_ms, trial) for label, trial in timed.items()}
    with meter:
        found = measure_latency(calls, protocol, device_times=told, progress=progress, turn=meter.window)
    for label, samples in found.items():
        timed[label].samples = samples
        timed[label].latency = summarise(samples)
        timed[label].power = meter.measure(label, runs=len(samples.nanoseconds))


def _device_ms(trial: Trial) -> float | None:
    return None if trial.session is None else trial.session.device_ms


def _call(trial: Trial, inputs: Mapping[str, npt.NDArray[Any]]) -> Callable[[], object]:
    session = trial.session
    assert session is not None
    return lambda: session.run(inputs)
