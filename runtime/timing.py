"""Latency, power and environment of the trials that are in; and what preparing an image adds to it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim.preprocess import read_image
from edgemim.runtime.backends._base import Session
from edgemim.runtime.bundle import Bundle
from edgemim.runtime.environment.watch import EnvironmentWatch
from edgemim.runtime.latency.measure import measure_latency
from edgemim.runtime.latency.protocol import LEAST_RUNS, LatencyProtocol
from edgemim.runtime.latency.summary import summarise, summarise_briefly
from edgemim.runtime.power.meter import PowerMeter
from edgemim.runtime.trial import Trial, still_in

# A name that no trial has.
_PREPARATION = "preparation"
_SERIES_RUNS = LEAST_RUNS[90]
_SERIES_ROUNDS = 4
_SERIES_WARMUP = 4


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How long it takes to prepare one image: decode, resize, crop, and normalise if the graph takes floats.

    Attributes:
        nanoseconds: Of every run, int64 [n]; the golden images in turn.
    """

    nanoseconds: npt.NDArray[np.int64]

    def to_dict(self) -> dict[str, Any]:
        """`n` and `p50_ms` for the report."""
        series = summarise_briefly(self.nanoseconds)
        return {"n": series.n, "p50_ms": series.p50_ms}


def time_together(
    groups: Sequence[tuple[Bundle, Sequence[Trial]]],
    protocol: LatencyProtocol,
    meter: PowerMeter,
    watch: EnvironmentWatch,
    progress: Callable[[int, int], None],
) -> list[Preparation | None]:
    """Measure the latency of every trial that is in and not a mere reference, in turns, and the power meanwhile.

    Afterwards a short series with and without the preparation of the images: a graph that takes pixels normalises
    them itself, and decoding can take longer than the model.

    Args:
        groups: Bundles, and the trials of each.
        meter: Not begun yet; this begins and ends it.
        watch: Begun by the caller; it is told when something was timed.

    Returns:
        Of each bundle the time of preparing one image; None where it carries no golden images.

    Raises:
        DeviceError: A session that ran before fails now, or the clock went backwards.
    """
    timed, calls = dict[str, Trial](), dict[str, Callable[[], object]]()
    for bundle, trials in groups:
        inputs, _ = next(bundle.golden_batches())
        for trial in _timed(trials):
            timed[trial.label], calls[trial.label] = trial, partial(_session(trial).run, inputs)
    told = {label: partial(_device_ms, trial) for label, trial in timed.items()}

    def turn(label: str, began_ns: int, ended_ns: int) -> None:
        meter.window(label, began_ns, ended_ns)
        watch.window(began_ns, ended_ns)

    with meter:
        found = measure_latency(calls, protocol, device_times=told, progress=progress, turn=turn)
    for label, samples in found.items():
        timed[label].samples = samples
        timed[label].latency = summarise(samples)
        timed[label].power = meter.measure(label, runs=len(samples.nanoseconds))
    return [_time_preparation(_timed(trials), bundle, protocol) for bundle, trials in groups]


def _timed(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in still_in(trials) if trial.pair.timed]


def _time_preparation(trials: Sequence[Trial], bundle: Bundle, protocol: LatencyProtocol) -> Preparation | None:
    """Preparing alone, and each trial with it, in turns; sets `with_preprocessing` of the trials."""
    if bundle.golden.images is None:
        return None
    encoded = tuple(bundle.golden.images.encoded())
    series = LatencyProtocol(
        # A caller who asks for a handful of runs gets no more of these.
        runs=min(_SERIES_RUNS, protocol.runs),
        seconds=0,
        rounds=_SERIES_ROUNDS,
        warmup_runs=_SERIES_WARMUP,
        warmup_s=0,
        warmup_most_s=0,
        settle_runs=1,
        settle_s=0,
    )
    calls: dict[str, Callable[[], object]] = {_PREPARATION: partial(_prepare_one, bundle, itertools.cycle(encoded))}
    for trial in trials:
        calls[trial.label] = partial(_prepare_and_run, bundle, itertools.cycle(encoded), _session(trial))
    found = measure_latency(calls, series)
    for trial in trials:
        trial.with_preprocessing = summarise_briefly(found[trial.label].nanoseconds)
    return Preparation(nanoseconds=found[_PREPARATION].nanoseconds)


def _prepare_one(bundle: Bundle, encoded: Iterator[bytes]) -> object:
    pixels = bundle.preprocess.pixels(read_image(next(encoded)))
    return pixels if bundle.encoding == "pixels" else bundle.preprocess.normalise(pixels[None])


def _prepare_and_run(bundle: Bundle, encoded: Iterator[bytes], session: Session) -> object:
    images = [bundle.preprocess.pixels(read_image(next(encoded))) for _ in range(bundle.batch)]
    return session.run(bundle.arrays(np.stack(images)))


def _session(trial: Trial) -> Session:
    assert trial.session is not None
    return trial.session


def _device_ms(trial: Trial) -> float | None:
    return None if trial.session is None else trial.session.device_ms
