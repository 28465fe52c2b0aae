"""Where this Python looks for packages, and what of TensorRT it could find there."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Place:
    """This interpreter, and the bindings of TensorRT that apt put beside it.

    Attributes:
        root: The folder that holds `etc` and `usr`.
        python: Version of this interpreter, as `major.minor`.
        environment: Folder of the virtual environment; None outside of one.
        bindings: Folders that hold apt's `tensorrt` package.
        sees: Whether this interpreter finds a package of that name, apt's or another.
    """

    root: Path
    python: str
    environment: Path | None
    bindings: tuple[Path, ...]
    sees: Callable[[str], bool]

    @property
    def bindings_python(self) -> str | None:
        """For which Python apt's bindings are, as `major.minor`; None without any, or if their folder does not say."""
        for folder in self.bindings:
            match = re.search(r"python(3\.\d+)/", folder.as_posix())
            if match:
                return match[1]
        return None


def find_place(root: Path) -> Place:
    """Look, and import nothing."""
    inside = sys.prefix != sys.base_prefix
    return Place(
        root=root,
        python=".".join(map(str, sys.version_info[:2])),
        environment=Path(sys.prefix) if inside else None,
        bindings=tuple(sorted((root / "usr/lib").glob("python3*/dist-packages/tensorrt"))),
        sees=lambda name: importlib.util.find_spec(name) is not None,
    )
