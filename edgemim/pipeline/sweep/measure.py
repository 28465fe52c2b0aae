"""The measuring steps of a sweep on this machine: a bundle by itself, and the finalists side by side.

Both are given to `run_sweep`, so that a sweep can measure elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt

from edgemim.errors import ConfigError
from edgemim.runtime.backends import BACKENDS
from edgemim.runtime.backends._base import Backend, require
from edgemim.runtime.bundle import Bundle, load_bundle
from edgemim.runtime.cache import default_cache, the_only_check
from edgemim.runtime.check import check_bundle
from edgemim.runtime.device import Device
from edgemim.runtime.environment.watch import EnvironmentWatch
from edgemim.runtime.latency.measure import measure_latency
from edgemim.runtime.latency.protocol import LatencyProtocol
from edgemim.runtime.latency.summary import Samples
from edgemim.runtime.plan import Pair
from edgemim.runtime.probe.measure import probe
from edgemim.runtime.probe.room import refuse_if_too_large
from edgemim.runtime.rotation import rotating_run
from edgemim.runtime.settings import CheckSettings
from edgemim.runtime.targets._base import Target
from edgemim.runtime.temperatures import board_thermometer


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A candidate of a bundle on a backend; `label` is its name among the finalists."""

    label: str
    bundle: Path
    candidate: str
    backend: str


@dataclass(frozen=True, kw_only=True)
class FinalMeasured:
    """What timing the finalists gave.

    Attributes:
        samples: Every timed run, by label.
        environment: Of the machine meanwhile, with `marks` of what speaks against the numbers; None: not recorded.
        readings: Arrays of the environment for `samples.npz`.
        origin_ns: Moment from which its times count.
        trouble: Why there are no samples, where the device failed.
    """

    samples: Mapping[str, Samples]
    environment: Mapping[str, Any] | None = None
    readings: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    origin_ns: int = 0
    trouble: str | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a sweep measures.

    Attributes:
        device: What it is.
        measure: Measures a bundle and writes the report of a bench: (bundle, folder of the report, settings).
        final: Times finalists in turns: (finalists, protocol, threads).
        alone: Held while the sweep runs, so that no other measurement disturbs it.
    """

    device: Device
    measure: Callable[[Path, Path, CheckSettings], Mapping[str, Any]]
    final: Callable[[Sequence[Finalist], LatencyProtocol, int], FinalMeasured]
    alone: Callable[[], AbstractContextManager[None]]


def this_machine(engines: Path, device: Device) -> Machine:
    """The machine that runs this.

    Args:
        engines: Folder of compiled engines; those of random weights have no place in the user's cache.
        device: What it is.
    """

    def measure(bundle: Path, out: Path, settings: CheckSettings) -> Mapping[str, Any]:
        return check_bundle(bundle, out, **vars(settings), cache=engines, overwrite=True)

    return Machine(
        device=device,
        measure=measure,
        final=partial(side_by_side, engines=engines),
        # The lock by which checks on this machine keep out of each other's way.
        alone=partial(the_only_check, default_cache()),
    )


def require_measurable(target: Target, device: Device) -> None:
    """Refuse a target that this machine cannot stand for, before anything is exported.

    Raises:
        ConfigError: It is for another kind of machine.
        MissingDependencyError, DeviceError: None of its backends can be used here.
    """
    if device.machine not in target.machines:
        raise ConfigError(
            f"nothing of a sweep for target {target.name!r} can be measured on this machine: the target is "
            f"{' or '.join(target.machines)}, this is {device.machine}; sweep on such a machine, or export each model "
            "with edgemim export and measure it with edgemim check --device ssh://USER@HOST"
        )
    backends: list[Backend] = [BACKENDS.get(name)() for name in target.backends]
    if all(backend.available() is not None for backend in backends):
        require(backends[0], f"target {target.name!r}")


def side_by_side(
    finalists: Sequence[Finalist], protocol: LatencyProtocol, threads: int, *, engines: Path
) -> FinalMeasured:
    """Time the finalists in turns, so that whatever the machine does, it does to all of them.

    Args:
        finalists: All of them were measured before, so that their engines are in the cache.
        threads: Of one inference.
        engines: The cache.

    Raises:
        DeviceError: The vendor library failed, or the finalists do not fit into memory together.
    """
    found = {finalist.label: _find(finalist) for finalist in finalists}
    _try_all(found, threads, engines)
    with ExitStack() as stack:
        calls: dict[str, Callable[[], object]] = {}
        for label, (bundle, pair) in found.items():
            session = pair.backend.open(pair.backend.compile(bundle, pair.candidate, engines, threads))
            stack.callback(session.close)
            calls[label] = rotating_run(session, bundle)
        with EnvironmentWatch() as watch:
            samples = measure_latency(
                calls,
                protocol,
                thermometer=board_thermometer(),
                turn=lambda _, began, ended: watch.window(began, ended),
            )
    starts = [int(one.start_ns[0]) for one in samples.values() if one.start_ns is not None]
    origin = min(starts, default=0)
    environment = watch.summary().to_dict()
    return FinalMeasured(samples=samples, environment=environment, readings=watch.arrays(origin), origin_ns=origin)


def _find(finalist: Finalist) -> tuple[Bundle, Pair]:
    bundle = load_bundle(finalist.bundle)
    (candidate,) = (candidate for candidate in bundle.candidates if candidate.name == finalist.candidate)
    return bundle, Pair(candidate=candidate, backend=BACKENDS.get(finalist.backend)())


def _try_all(finalists: Mapping[str, tuple[Bundle, Pair]], threads: int, engines: Path) -> None:
    """Start each once more in a process of its own, for what it takes: they were never open together.

    Raises:
        DeviceError: One of them ends badly, or they do not fit in here together.
    """
    found = {label: probe(bundle, pair, engines, threads).footprint for label, (bundle, pair) in finalists.items()}
    refuse_if_too_large([replace(one, label=label) for label, one in found.items() if one is not None])
