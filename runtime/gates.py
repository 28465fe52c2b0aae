"""Gates: the budgets a candidate must keep to ship, `name=limit`.

    limits = parse_gates(["p99_ms=8", "top1.max_drop=0.01"])
    results = check_gates(limits, {"p99_ms": 7.2, "top1.max_drop": Missing("the images have no labels")})

A gate that cannot be measured is missed, and says why, unless the caller allows just that; it never passes in silence.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
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


def _at_most(name: str, meaning: str) -> Gate:
    return Gate(name=name, meaning=meaning, most=True, low=0.0, high=math.inf)


def _at_least(name: str, meaning: str, *, low: float = 0.0) -> Gate:
    return Gate(name=name, meaning=meaning, most=False, low=low, high=1.0)


GATES = {
    gate.name: gate
    for gate in (
        _at_most("p50_ms", "median latency of a run, in milliseconds"),
        _at_most("p90_ms", "latency that 90 % of the runs keep, in milliseconds"),
        _at_most("p90_estimate_ms", "MLPerf's early-stopping estimate of that, for independent runs, in milliseconds"),
        _at_most("p99_ms", "latency that 99 % of the runs keep, in milliseconds"),
        _at_most("size_mb", "size of the model file, 10^6 bytes"),
        _at_most("peak_mb", "most memory of a process that loads and runs it, 10^6 bytes"),
        _at_most("energy_mj", "energy of a run, in millijoules"),
        _at_least("top1.min", "share of images classed right"),
        Gate(name="top1.max_drop", meaning="top-1 of fp32 minus its own", most=True, low=-1.0, high=1.0),
        _at_least("agreement.min", "share of images classed like fp32"),
        _at_least("cosine.min", "mean cosine with fp32's outputs", low=-1.0),
        _at_least("embedding_cosine.min", "the same, of a model without classes", low=-1.0),
        _at_least("knn_agreement.min", "share of images that get the same answer from the gallery as with fp32"),
    )
}


@dataclass(frozen=True, kw_only=True)
class Missing:
    """In place of a number that could not be measured: why not."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number that other images would have given another value.

    Attributes:
        worst: The end of its 95 % interval on the side where a limit would be missed.
    """

    value: float
    worst: float


Measured = float | Estimate | Missing


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """One gate held against one candidate.

    Attributes:
        value: None if it was not measured; `reason` says why.
        missed_by: How far the value is on the wrong side of the limit, in the gate's unit; None if it is not.
        allowed: Whether the caller lets it pass although it was not measured.
        may_be: What the images allow, where the value keeps the limit and that would not; None otherwise.
    """

    name: str
    limit: float
    value: float | None
    passed: bool
    reason: str | None
    missed_by: float | None = None
    allowed: bool = False
    may_be: float | None = None

    def sentence(self) -> str:
        """`p99_ms is 9.1, 1.1 above its limit 8`."""
        if self.value is None:
            return f"{self.name} could not be measured: {self.reason}{', which was allowed' if self.allowed else ''}"
        if self.may_be is not None:
            least = "up" if GATES[self.name].most else "down"
            kept = f"{self.name} is {self.value:.4g}, limit {self.limit:g}: kept"
            return f"{kept}, but the images allow {least} to {self.may_be:.4g}"
        if self.missed_by is None:
            return f"{self.name} is {self.value:.4g}, limit {self.limit:g}"
        side = "above" if GATES[self.name].most else "below"
        return f"{self.name} is {self.value:.4g}, {self.missed_by:.2g} {side} its limit {self.limit:g}"

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


def gates_from_table(table: Mapping[str, Any]) -> tuple[dict[str, float], tuple[str, ...]]:
    """Limits, and names of gates that may stay unmeasured, from a TOML table.

        p99_ms = 8
        top1.max_drop = 0.005
        allow_unmeasured = ["energy_mj"]

    Raises:
        ConfigError: An unknown name, or a limit out of its range.
    """
    own = dict(table)
    allowed = own.pop("allow_unmeasured", [])
    if not isinstance(allowed, list) or not all(isinstance(name, str) for name in allowed):
        raise ConfigError(f"allow_unmeasured is a list of gates; got {allowed!r}")
    limits: dict[str, Any] = {}
    for name, value in own.items():
        inner = value.items() if isinstance(value, Mapping) else (("", value),)
        limits |= {f"{name}.{key}" if key else name: limit for key, limit in inner}
    return check_limits(limits), check_names(allowed)


def check_names(names: Collection[str]) -> tuple[str, ...]:
    """The names of gates, each once.

    Raises:
        ConfigError: An unknown one.
    """
    for name in names:
        if name not in GATES:
            raise ConfigError(f"unknown gate {name!r}{did_you_mean(name, GATES)}")
    return tuple(dict.fromkeys(names))


def check_limits(limits: Mapping[str, float]) -> dict[str, float]:
    """The limits as floats, in the order of `GATES`.

    Raises:
        ConfigError: An unknown name, or a limit out of its range.
    """
    check_names(limits)
    for name, limit in limits.items():
        gate = GATES[name]
        number = isinstance(limit, int | float) and not isinstance(limit, bool) and math.isfinite(limit)
        if not number or not gate.low <= limit <= gate.high:
            raise ConfigError(f"gate {name} ({gate.meaning}) lies in {gate.low:g} to {gate.high:g}; got {limit!r}")
    return {name: float(limits[name]) for name in GATES if name in limits}


def check_gates(
    limits: Mapping[str, float], measured: Mapping[str, Measured], allowed: Collection[str] = ()
) -> list[GateResult]:
    """Hold the measured values of one candidate against the limits; every gate in `limits` gets a result.

    An estimate is held against its limit by its value; how far the images leave that open is told beside it.

    Args:
        allowed: Gates that are kept if they could not be measured.
    """
    return [_check(name, limit, measured[name], allowed=name in allowed) for name, limit in limits.items()]


def _check(name: str, limit: float, found: Measured, *, allowed: bool) -> GateResult:
    if isinstance(found, Missing):
        return GateResult(name=name, limit=limit, value=None, passed=allowed, reason=found.reason, allowed=allowed)
    value, worst = (found.value, found.worst) if isinstance(found, Estimate) else (found, found)
    over = _over(name, value, limit)
    passed = over <= 0
    return GateResult(
        name=name,
        limit=limit,
        value=value,
        passed=passed,
        reason=None,
        missed_by=None if passed else over,
        may_be=worst if passed and _over(name, worst, limit) > 0 else None,
    )


def _over(name: str, value: float, limit: float) -> float:
    """How far a value is on the wrong side of a limit; not above 0 if it is not."""
    return value - limit if GATES[name].most else limit - value
