"""What a check will run: candidates times backends, and the fp32 run that the others are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgemim.errors import ConfigError, MissingDependencyError
from edgemim.registry import did_you_mean
from edgemim.runtime.backends import BACKENDS
from edgemim.runtime.backends._base import Backend, require
from edgemim.runtime.bundle import Bundle, Candidate

REFERENCE_BACKEND = "onnxruntime"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One candidate on one backend; `timed` is False if it only serves as the reference for accuracy."""

    candidate: Candidate
    backend: Backend
    timed: bool = True


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The pairs to run, in order, and per backend that was left out why."""

    pairs: tuple[Pair, ...]
    skipped: dict[str, str]


def make_plan(bundle: Bundle, backends: Sequence[str | Backend] | None, candidates: Sequence[str] | None) -> Plan:
    """Every wanted candidate on every wanted backend.

    Args:
        backends: Names, or backends of the caller's own; None for those of the target that are installed.
        candidates: Names; None for all of the bundle.

    Raises:
        ConfigError: An unknown name, or a target that no backend of this version serves.
        MissingDependencyError: A wanted backend is not installed.
    """
    wanted = _candidates(bundle, candidates)
    if backends is None:
        used, skipped = _installed(bundle)
    else:
        used, skipped = _named(backends), {}
    pairs = [Pair(candidate=c, backend=b) for c in wanted for b in used]
    return Plan(pairs=tuple(pairs + _extra_reference(bundle, pairs)), skipped=skipped)


def _candidates(bundle: Bundle, names: Sequence[str] | None) -> list[Candidate]:
    known = {candidate.name: candidate for candidate in bundle.candidates}
    if names is None:
        return list(known.values())
    for name in names:
        if name not in known:
            raise ConfigError(f"the bundle has no candidate {name!r}{did_you_mean(name, known)}")
    if not names:
        raise ConfigError(f"no candidate was asked for; known: {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)]


def _named(backends: Sequence[str | Backend]) -> list[Backend]:
    found: list[Backend] = [BACKENDS.get(b)() if isinstance(b, str) else b for b in backends]
    used = list({backend.name: backend for backend in found}.values())
    if not used:
        raise ConfigError(f"no backend was asked for; known: {', '.join(BACKENDS.names())}")
    for backend in used:
        require(backend)
    return used


def _installed(bundle: Bundle) -> tuple[list[Backend], dict[str, str]]:
    """Backends of the bundle's target that can be used here, and why the others cannot."""
    target, known = bundle.target, BACKENDS.names()
    served = [BACKENDS.get(name)() for name in target.backends if name in known]
    if not served:
        built = "its engines are built on the device itself, and " if target.builds_on_device else ""
        raise ConfigError(
            f"target {target.name!r} runs through {' or '.join(target.backends)}: {built}this version of "
            f"edgemim has no such backend yet; to try its ONNX files here, pass --backend {' or '.join(known)}"
        )
    reasons = {backend.name: backend.available() for backend in served}
    usable = [backend for backend in served if reasons[backend.name] is None]
    if not usable:
        first = served[0]
        raise MissingDependencyError(f"target {target.name!r}", first.module, first.extra)
    return usable, {name: reason for name, reason in reasons.items() if reason is not None}


def _extra_reference(bundle: Bundle, pairs: Sequence[Pair]) -> list[Pair]:
    """The fp32 candidate on the reference backend, if that can run and is not in the plan already.

    Without that backend any fp32 pair of the plan will do; if there is none, one is added.
    """
    full = next((c for c in bundle.candidates if c.precision == "fp32"), None)
    if full is None:
        return []
    reference: Backend = BACKENDS.get(REFERENCE_BACKEND)()
    if reference.available() is None:
        same = [p for p in pairs if p.candidate == full and p.backend.name == REFERENCE_BACKEND]
        return [] if same else [Pair(candidate=full, backend=reference, timed=False)]
    if any(pair.candidate.precision == "fp32" for pair in pairs):
        return []
    return [Pair(candidate=full, backend=pairs[0].backend, timed=False)]
