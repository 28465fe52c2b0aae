"""Gates: the budgets a candidate must keep to ship, `name=limit`.

    limits = parse_gates(["p99_ms=8", "top1.max_drop=0.01"])
    results = check_gates(limits, {"p99_ms": 7.2, "top1.max_drop": Missing("the images have no labels")})

A gate that cannot be measured is missed, and says why; it never passes in silence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgemim.errors import ConfigError
from edgemim.registry import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A number that may not be above (`most`) or below a limit, and the range a limit may have."""

    name: str
    meaning: str
    most: bool
    low: float
    high: float


def _latency(name: str, meaning: str) -> Gate:
    return Gate(name=name, meaning=meaning, most=True, low=0.0, high=math.inf)


GATES = {
    gate.name: gate
    for gate in (
        _latency("p50_ms", "median latency of a run, in milliseconds"),
        _latency("p90_ms", "latency that 90 % of the runs keep, in milliseconds"),
        _latency("p99_ms", "latency that 99 % of the runs keep, in milliseconds"),
        Gate(name="size_mb", meaning="size of the model file, 10^6 bytes", most=True, low=0.0, high=math.inf),
        Gate(name="top1.min", meaning="share of images classed right", most=False, low=0.0, high=1.0),
        Gate(name="top1.max_drop", meaning="top-1 of fp32 minus its own", most=True, low=-1.0, high=1.0),
        Gate(
            name="agreement.min",
            meaning="share of images classed like fp32",
            most=False,
            low=0.0,
            high=1.0,
        ),
        Gate(name="cosine.min", meaning="mean cosine with fp32's outputs", most=False, low=-1.0, high=1.0),
        Gate(
            name="knn_agreement.min",
            meaning="share of images that get the same answer from the gallery as with fp32",
            most=False,
            low=0.0,
            high=1.0,
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Missing:
    """In place of a number that could not be measured: why not."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """One gate held against one candidate; without a `value`, `reason` says why it was not measured."""

    name: str
    limit: float
    value: float | None
    passed: bool
    reason: str | None

    def sentence(self) -> str:
        """`p99_ms is 9.1, limit 8`."""
        if self.value is None:
            return f"{self.name} could not be measured: {self.reason}"
        return f"{self.name} is {self.value:.4g}, limit {self.limit:g}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the report."""
        return dict(vars(self))


def parse_gates(pairs: Sequence[str]) -> dict[str, float]:
    """`["p99_ms=8", ...]` to limits by name; a later pair of the same name wins.

    Raises:
        ConfigError: No `=`, not a number, an unknown name, or a limit out of its range.
    """
    limits: dict[str, float] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            limits[name.strip()] = float(text)
        except ValueError as error:
            raise ConfigError(f"a gate is NAME=NUMBER, such as p99_ms=8; got {pair!r}") from error
    return check_limits(limits)


def check_limits(limits: Mapping[str, float]) -> dict[str, float]:
    """The limits as floats, in the order of `GATES`.

    Raises:
        ConfigError: An unknown name, or a limit out of its range.
    """
    for name, limit in limits.items():
        if name not in GATES:
            raise ConfigError(f"unknown gate {name!r}{did_you_mean(name, GATES)}")
        gate = GATES[name]
        number = isinstance(limit, int | float) and not isinstance(limit, bool) and math.isfinite(limit)
        if not number or not gate.low <= limit <= gate.high:
            raise ConfigError(f"gate {name} ({gate.meaning}) lies in {gate.low:g} to {gate.high:g}; got {limit!r}")
    return {name: float(limits[name]) for name in GATES if name in limits}


def check_gates(limits: Mapping[str, float], measured: Mapping[str, float | Missing]) -> list[GateResult]:
    """Hold the measured values of one candidate against the limits; every gate in `limits` gets a result."""
    results = []
    for name, limit in limits.items():
        value = measured[name]
        if isinstance(value, Missing):
            results.append(GateResult(name=name, limit=limit, value=None, passed=False, reason=value.reason))
            continue
        passed = value <= limit if GATES[name].most else value >= limit
        results.append(GateResult(name=name, limit=limit, value=value, passed=passed, reason=None))
    return results
