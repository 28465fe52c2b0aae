"""One line of the doctor."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing the doctor looked at.

    Attributes:
        what: What was found, in one line.
        why: Why it matters.
        cure: What to do about it; None if there is nothing to do.
        level: "ok", "warn" or "error".
    """

    what: str
    why: str
    cure: str | None
    level: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return asdict(self)


def ok(what: str, why: str, cure: str | None = None) -> Finding:
    """Nothing has to be done; a cure says what could be."""
    return Finding(what=what, why=why, cure=cure, level="ok")


def warn(what: str, why: str, cure: str | None) -> Finding:
    """Measurements would mislead, or something the user may want does not work."""
    return Finding(what=what, why=why, cure=cure, level="warn")


def error(what: str, why: str, cure: str) -> Finding:
    """edgemim, or the backend in question, cannot run like this."""
    return Finding(what=what, why=why, cure=cure, level="error")
