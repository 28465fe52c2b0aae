"""What a check is told, here or on a board."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgemim.runtime.backends._base import Backend


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """How to measure a bundle, and what to hold it to.

    Attributes:
        gates: Limits by gate name, added to the bundle's own or replacing them.
        allow_unmeasured: Gates that are kept where they cannot be measured.
        judge: Whether the candidates are held to gates at all; False for a bench.
        backends: Names, or backends of the caller's own; None: the target's that are installed.
        candidates: Names; None: all.
        threads: Threads of one inference; None: the physical cores that this process may use.
        mode: How long to measure, one of `edgemim.runtime.latency.protocol.MODES`.
        seconds, runs: Least time and least number of timed runs of each candidate, in place of the mode's.
        rebuild: Compile again what an earlier check compiled, and time its kernels anew.
        probe: Whether cold start and memory are measured, in processes of their own.
    """

    gates: Mapping[str, float] = field(default_factory=dict)
    allow_unmeasured: Sequence[str] = ()
    judge: bool = True
    backends: Sequence[str | Backend] | None = None
    candidates: Sequence[str] | None = None
    threads: int | None = None
    mode: str = "quick"
    seconds: float | None = None
    runs: int | None = None
    rebuild: bool = False
    probe: bool = True

    def arguments(self) -> list[str]:
        """The same as arguments of `python3 -m edgemim.runtime check`; backends must be names."""
        words = [f"--mode={self.mode}"]
        words += [f"--gate={name}={limit!r}" for name, limit in self.gates.items()]
        words += [f"--allow-unmeasured={name}" for name in self.allow_unmeasured]
        words += [f"--backend={name}" for name in self.backends or ()]
        words += [f"--candidate={name}" for name in self.candidates or ()]
        numbers = {"--threads": self.threads, "--seconds": self.seconds, "--runs": self.runs}
        words += [f"{option}={number}" for option, number in numbers.items() if number is not None]
        words += ["--no-gates"] * (not self.judge) + ["--no-probe"] * (not self.probe)
        return words + ["--rebuild"] * self.rebuild
