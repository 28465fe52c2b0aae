"""What a command reads must not be what it replaces."""

from __future__ import annotations

from pathlib import Path

from edgemim.errors import OutputError


def keep(out: Path, *inputs: Path | str | None) -> None:
    """Refuse an output folder that is one of the inputs or holds one: `--overwrite` would remove it.

    Raises:
        OutputError: Names the input.
    """
    folder = out.resolve()
    for given in inputs:
        if given and Path(given).exists() and Path(given).resolve().is_relative_to(folder):
            raise OutputError(f"--out {out} would replace {given}, which this command reads; choose another --out")
