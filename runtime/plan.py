"""What a check will run: candidates times backends, and the fp32 run that the others are compared with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgemim.errors import ConfigError
from edgemim.registry import did_you_mean
from edgemim.runtime.backends import BACKENDS
from edgemim.runtime.backends._base import Backend, require
from edgemim.runtime.bundle import Bundle
from edgemim.runtime.candidates import Candidate
from edgemim.runtime.device import Device
from edgemim.runtime.jetpack import find_jetpack

REFERENCE_BACKEND = "onnxruntime"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One candidate on one backend; `timed` is False if it only serves as the reference for accuracy."""

    candidate: Candidate
    backend: Backend
    timed: bool = True


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The pairs to run, in order, and per backend or candidate that was left out why."""

    pairs: tuple[Pair, ...]
    skipped: dict[str, str]


def make_plan(
    bundle: Bundle, backends: Sequence[str | Backend] | None, candidates: Sequence[str] | None, device: Device
) -> Plan:
    """Every wanted candidate on every wanted backend that can run it.

    Args:
        backends: Names, or backends of the caller's own; None for those of the target that are installed, without
            those that ignore a cap on the CPU's instruction sets where another one obeys it.
        candidates: Names; None for all of the bundle that the device can run.
        device: The machine that will run them.

    Raises:
        ConfigError: An unknown name, a bundle for another kind of machine, a candidate that was asked for and that this
            device cannot run, or no pair at all.
        MissingDependencyError: A wanted backend is not installed.
        DeviceError: What a wanted backend runs on is not there.
    """
    if bundle.target.is_nvidia and (backends is None or set(bundle.target.backends) & set(backends)):
        _refuse_old_jetpack(device)
    wanted, skipped = _named(bundle, candidates, device) if candidates is not None else _possible(bundle, device)
    if backends is None:
        used, absent = _installed(bundle, device)
        skipped = absent | skipped
    else:
        used = _given(backends)
    pairs, refused = _pairs(bundle, wanted, used)
    if candidates is not None and refused:
        name = next(iter(refused))
        raise ConfigError(f"candidate {name!r} cannot run here: {refused[name]}")
    planned = {pair.candidate.name for pair in pairs}
    alone = {c.name: f"it runs on {c.backend} alone" for c in wanted if c.name not in planned}
    skipped |= alone | refused
    if not pairs:
        names = " or ".join(backend.name for backend in used)
        raise ConfigError(f"nothing is left to run on {names}: {_sentence(skipped)}")
    return Plan(pairs=tuple(pairs + _extra_reference(bundle, pairs)), skipped=skipped)


def _refuse_old_jetpack(device: Device) -> None:
    """Stop on a Jetson whose release cannot run any candidate, before a missing package is blamed."""
    jetpack = None if device.l4t is None else find_jetpack(device.l4t)
    if jetpack is not None and jetpack.unsupported is not None:
        raise ConfigError(
            f"JetPack {jetpack.name} (L4T {device.l4t}) is not supported: {jetpack.unsupported}; {jetpack.cure}"
        )


def _pairs(
    bundle: Bundle, candidates: Sequence[Candidate], backends: Sequence[Backend]
) -> tuple[list[Pair], dict[str, str]]:
    """The pairs that can run, and of each candidate that no installed version can run why."""
    meant = [(c, b) for c in candidates for b in backends if c.backend in (None, b.name)]
    reasons = {(c.name, b.name): b.cannot_run(c) for c, b in meant}
    pairs = [Pair(candidate=c, backend=b) for c, b in meant if reasons[c.name, b.name] is None]
    planned = {pair.candidate.name for pair in pairs}
    refused = {
        c.name: f"{reason}{_instead(bundle, c, b)}"
        for c, b in meant
        if c.name not in planned and (reason := reasons[c.name, b.name]) is not None
    }
    return pairs, refused


def _instead(bundle: Bundle, refused: Candidate, backend: Backend) -> str:
    """The candidates of the same precision that the backend can run."""
    same = [c for c in bundle.candidates if c.precision == refused.precision and c.backend in (None, backend.name)]
    fitting = [c.name for c in same if backend.cannot_run(c) is None]
    return f"; of the same precision it runs {', '.join(fitting)}" if fitting else ""


def _possible(bundle: Bundle, device: Device) -> tuple[list[Candidate], dict[str, str]]:
    """The candidates that the device can run, and why it cannot run the others."""
    lacks = {c.name: _lack(c, device) for c in bundle.candidates}
    possible = [c for c in bundle.candidates if lacks[c.name] is None]
    return possible, {name: reason for name, reason in lacks.items() if reason is not None}


def _named(bundle: Bundle, names: Sequence[str], device: Device) -> tuple[list[Candidate], dict[str, str]]:
    known = {candidate.name: candidate for candidate in bundle.candidates}
    for name in names:
        if name not in known:
            raise ConfigError(f"the bundle has no candidate {name!r}{did_you_mean(name, known)}")
        reason = _lack(known[name], device)
        if reason is not None:
            raise ConfigError(f"candidate {name!r} cannot run here: {reason}")
    if not names:
        raise ConfigError(f"no candidate was asked for; known: {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)], {}


def _lack(candidate: Candidate, device: Device) -> str | None:
    return None if candidate.needs is None else device.lacks(candidate.needs)


def _sentence(reasons: dict[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def _given(backends: Iterable[str | Backend]) -> list[Backend]:
    found: list[Backend] = [BACKENDS.get(b)() if isinstance(b, str) else b for b in backends]
    used = list({backend.name: backend for backend in found}.values())
    if not used:
        raise ConfigError(f"no backend was asked for; known: {', '.join(BACKENDS.names())}")
    for backend in used:
        require(backend)
    return used


def _installed(bundle: Bundle, device: Device) -> tuple[list[Backend], dict[str, str]]:
    """Backends of the bundle's target that are used here, and why the others are not."""
    target = bundle.target
    served: list[Backend] = [BACKENDS.get(name)() for name in target.backends]
    reasons = {backend.name: backend.available() for backend in served}
    usable = [backend for backend in served if reasons[backend.name] is None]
    if not usable:
        if device.machine not in target.machines:
            raise ConfigError(_elsewhere(bundle, device))
        require(served[0], f"target {target.name!r}")
    skipped = {name: reason for name, reason in reasons.items() if reason is not None}
    capped = [backend for backend in usable if backend.obeys_isa_cap]
    if not capped or device.effective_isa == device.isa:
        return usable, skipped
    # The cap makes this CPU stand in for an older one; who ignores it would win with instructions that one lacks.
    free = f"ONEDNN_MAX_CPU_ISA={device.isa_cap} does not hold it back, so that it cannot be compared"
    return capped, skipped | {backend.name: free for backend in usable if backend not in capped}


def _elsewhere(bundle: Bundle, device: Device) -> str:
    """That the bundle is for another kind of machine, and what to do."""
    target = bundle.target
    there = " and has its engines built there" if target.builds_on_device else ""
    return (
        f"the bundle is for target {target.name!r}, which is {' or '.join(target.machines)}{there}; this machine is "
        f"{device.machine}: check it there, or from here with --device ssh://USER@HOST; to try its ONNX files here, "
        f"pass --backend {REFERENCE_BACKEND}"
    )


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
