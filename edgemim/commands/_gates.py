"""Budgets from a TOML file and from the command line together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def read_gates(
    file: Path | None, pairs: Sequence[str] | None, allowed: Sequence[str] | None
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Limits by gate, and the gates that may stay unmeasured; the command line wins over the file.

    Raises:
        ConfigError: No such file, not TOML, an unknown gate, or a limit out of its range.
    """
    from edgemim.config import read_toml
    from edgemim.runtime.gates import check_names, gates_from_table, parse_gates

    limits, may_lack = ({}, ()) if file is None else gates_from_table(read_toml(file, "gates"))
    return limits | parse_gates(pairs or []), check_names([*may_lack, *(allowed or [])])
