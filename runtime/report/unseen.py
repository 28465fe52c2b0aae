"""What nobody saw of the machine while a report's numbers were measured: silence is no sign that nothing happened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edgemim.runtime.backends import BACKENDS
from edgemim.runtime.environment.summary import DISCRETE_GPU

_WORDS = {
    "cpu_mhz": "the clock of its CPUs",
    "gpu_mhz": "the clock of its GPU",
    "temperatures_c": "its temperatures",
    "others_cpu": "what other processes take",
    DISCRETE_GPU: "the clock and the heat of its graphics card",
}
_UNWATCHED = "nobody watched the machine while this was measured: whether it was busy, hot or throttled is not known"
_APART = (
    "there was no measurement of all in turns: each was watched by itself, and what changed in between is not known"
)


def unseen(report: Mapping[str, Any]) -> list[str]:
    """One sentence, lower case, without a full stop; none where everything that the machine should tell was read.

    Args:
        report: In the newest schema. One of boards has measured nothing itself, and gets none.
    """
    if report["kind"] == "boards":
        return []
    environment = report.get("environment")
    rows = [*report.get("candidates", ()), *report.get("entries", ())]
    if environment is None and report["kind"] == "sweep":
        return [_APART] if sum(row.get("latency") is not None for row in rows) > 1 else []
    if environment is None:
        return [_UNWATCHED]
    missing = [name for name in environment.get("unknown") or () if name != DISCRETE_GPU or _on_a_gpu(rows)]
    if not missing:
        return []
    words = [_WORDS.get(name, name) for name in missing]
    told = " or ".join([*filter(None, [", ".join(words[:-1])]), words[-1]])
    return [f"this machine does not tell {told}: a change of that while measuring went unseen"]


def _on_a_gpu(rows: Iterable[Mapping[str, Any]]) -> bool:
    used = {row.get("backend") for row in rows} & set(BACKENDS.names())
    return any(BACKENDS.get(str(name)).processor != "CPU" for name in used)
