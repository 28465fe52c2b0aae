"""Cold start and memory of one candidate on one backend."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgemim.runtime.backends import BACKENDS
from edgemim.runtime.backends._base import Backend
from edgemim.runtime.bundle import Bundle
from edgemim.runtime.plan import Pair
from edgemim.runtime.probe.parent import run_child
from edgemim.runtime.probe.result import ColdStart, Memory, Probe
from edgemim.runtime.probe.room import Footprint, Taken


def probe(bundle: Bundle, pair: Pair, cache: Path, threads: int, *, rebuild: bool = False) -> Probe:
    """Load and run a candidate in a process of its own; compile it in another one, where that has to be done.

    What was compiled is in the cache afterwards.

    Args:
        rebuild: Compile again what an earlier run compiled.

    Returns:
        Numbers, or None in their place and the reason why this backend was not probed.

    Raises:
        DeviceError: The process was killed, crashed or hung, or the vendor library failed; it names the backend.
        OutputError: The cache cannot be written.
        ArtifactError: The bundle was altered meanwhile.
    """
    reason = _reason(pair.backend)
    if reason is not None:
        return Probe(cold_start=ColdStart(reason=reason), memory=Memory(reason=reason, device_reason=reason))
    order: dict[str, Any] = {
        "bundle": str(bundle.artifact.path),
        "backend": pair.backend.name,
        "candidate": asdict(pair.candidate),
        "cache": str(cache),
        "threads": threads,
        "rebuild": rebuild,
        "engine": None,
    }
    found = run_child(order)
    compiled = found["compiled"]
    if "cold_start" not in found:
        found = run_child(order | {"engine": found["engine"]})
    return Probe(
        cold_start=ColdStart(**compiled, **found["cold_start"]),
        memory=Memory(**found["memory"]),
        footprint=_footprint(found, pair),
    )


def _footprint(found: Mapping[str, Any], pair: Pair) -> Footprint | None:
    if found["own"] is None:
        return None
    return Footprint(
        label=f"{pair.candidate.name} on {pair.backend.name}",
        backend=pair.backend.name,
        module=pair.backend.module,
        library=Taken(**found["library"]),
        own=Taken(**found["own"]),
    )


def _reason(backend: Backend) -> str | None:
    """Why a backend cannot be probed, or None if it can."""
    if backend.name not in BACKENDS.names() or type(backend) is not BACKENDS.get(backend.name):
        return f"the backend {backend.name!r} is an object of the caller, which another process cannot make"
    return None if sys.executable else "the Python that runs this does not say where it is, so no other can be started"
