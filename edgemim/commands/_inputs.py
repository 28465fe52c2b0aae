"""Folders that a user named: what a command reads must not be what it replaces, and `.` has a name."""

from __future__ import annotations

import os
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


def named(path: Path) -> Path:
    """`.` and `..` by their own names; a path that ends in a name stays as it was typed."""
    return path if path.name not in ("", "..") else Path(os.path.abspath(path))


def named_out(out: Path | None) -> Path | None:
    """An --out by its own name: once `.` has been replaced it is another folder than the one of that name."""
    return None if out is None else named(out)


def beside(path: Path, what: str) -> Path:
    """The folder NAME-WHAT beside a folder."""
    place = named(path)
    return place.parent / f"{place.name}-{what}"
