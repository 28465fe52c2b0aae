"""Latency, power and environment of the trials that are in; and what preparing an image adds to it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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
from edgemim.runtime.rotation import rotating_run
from edgemim.runtime.temperatures import board_thermometer
from edgemim.runtime.trial import Trial, still_in

# Least runs with preparation, over all turns; and untimed ones before the first.
_SERIES_RUNS, _SERIES_WARMUP = LEAST_RUNS[90], 4


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
    progress: Callable[[], None],
) -> list[Preparation | None]:
    """Measure the latency of every trial that is in and not a mere reference, in turns, and the power meanwhile.

    Right after each turn of a trial come a few runs of it that prepare their images first: a graph that takes pixels
    normalises them itself, and decoding can take longer than the model. Preparing alone has its turns too.

    Args:
        groups: Bundles, and the trials of each.
        meter: Not begun yet; this begins and ends it.
        watch: Begun by the caller; it is told when something was timed.
        progress: Called after each turn of a trial.

    Returns:
        Of each bundle the time of preparing one image; None where it carries no golden images.

    Raises:
        DeviceError: A session that ran before fails now, or the clock went backwards.
    """
    timed = {trial.label: trial for _, trials in groups for trial in trials if _is_timed(trial)}
    calls: dict[str, Callable[[], object]] = {}
    for index, (bundle, trials) in enumerate(groups):
        encoded = () if bundle.golden.images is None else tuple(bundle.golden.images.encoded())
        if encoded:
            calls[_preparing(index)] = partial(_prepare_one, bundle, itertools.cycle(encoded))
        for trial in filter(_is_timed, trials):
            calls[trial.label] = rotating_run(_session(trial), bundle)
            if encoded:
                with_preparation = partial(_prepare_and_run, bundle, itertools.cycle(encoded), _session(trial))
                calls[_prepared(trial.label)] = with_preparation
    brief = _series(protocol)

    def turn(name: str, began_ns: int, ended_ns: int) -> None:
        watch.window(began_ns, ended_ns)
        if name in timed:
            meter.window(name, began_ns, ended_ns)
            progress()

    with meter:
        found = measure_latency(
            calls,
            protocol,
            own={name: brief for name in calls if name not in timed},
            device_times={label: partial(_device_ms, trial) for label, trial in timed.items()},
            thermometer=board_thermometer(),
            turn=turn,
        )
    for label, trial in timed.items():
        trial.samples, trial.prepared = found[label], found.get(_prepared(label))
        trial.latency = summarise(trial.samples)
        trial.power = meter.measure(label, runs=len(trial.samples.nanoseconds))
    alone = [found.get(_preparing(index)) for index in range(len(groups))]
    return [None if one is None else Preparation(nanoseconds=one.nanoseconds) for one in alone]


def _is_timed(trial: Trial) -> bool:
    return bool(still_in([trial])) and trial.pair.timed


def _preparing(index: int) -> str:
    """What preparing the images of a group is called; no trial is."""
    return f"preparing images ({index})"


def _prepared(label: str) -> str:
    return f"{label}, with preprocessing"


def _series(protocol: LatencyProtocol) -> LatencyProtocol:
    """The protocol of what is only reported beside the latency: in as many rounds, a few runs each."""
    return replace(
        protocol,
        # A caller who asks for a handful of runs gets no more of these.
        runs=min(_SERIES_RUNS, protocol.runs),
        seconds=0,
        warmup_runs=_SERIES_WARMUP,
        warmup_s=0,
        warmup_most_s=0,
        settle_runs=1,
        settle_s=0,
    )


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
