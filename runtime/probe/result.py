"""What a probe found, as the report has it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edgemim.runtime.probe.room import Footprint


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """Starting a candidate in a fresh process; all None, and a `reason`, where it was not measured.

    Attributes:
        compile_s: Seconds that compiling took, when it was done.
        compiled_before: Whether an earlier run did that.
        compile_first_ms: Milliseconds of the first run right after compiling; None if the backend makes none.
        compile_peak_mb: Most resident memory of the process that compiled, 10^6 bytes; None if none had to.
        import_s: Seconds that importing the vendor package took; None if it cannot be imported by itself.
        load_s: Seconds from the engine on disk, which the operating system has in its cache, to one that can run.
        first_ms: Milliseconds of the first run.
    """

    compile_s: float | None = None
    compiled_before: bool | None = None
    compile_first_ms: float | None = None
    compile_peak_mb: float | None = None
    import_s: float | None = None
    load_s: float | None = None
    first_ms: float | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the report."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory of a process that loads and runs one candidate, 10^6 bytes; None, and a reason, where not measured.

    Attributes:
        peak_mb: Most resident memory until the third run was over, `base_mb` included.
        base_mb: The same when edgemim was imported and the bundle read, before the vendor package was imported.
        device_mb: Memory of the device that loading and three runs took, the driver's context not counted; None, and
            `device_reason`, where the backend has no memory but the host's.
    """

    peak_mb: float | None = None
    base_mb: float | None = None
    device_mb: float | None = None
    device_reason: str | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the report."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Both parts of one candidate on one backend.

    Attributes:
        footprint: What it took of everything that may be limited, by which is decided what may be open together; None
            where that is not known.
    """

    cold_start: ColdStart
    memory: Memory
    footprint: Footprint | None = None
