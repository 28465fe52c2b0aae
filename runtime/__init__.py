"""The stage that runs on the device: compile a bundle's candidates there, measure them, say which one ships.

`check.py` is the way in and reads top to bottom; it takes a bundle (`bundle.py`) through the backends
(`backends/`) and writes a report (`report/`). Everything here imports, and passes its tests, with the base
install alone: no torch, no onnx, and a vendor package only inside the functions of its backend.

`from edgemim.runtime import load` opens a bundle in a program; it is imported on use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgemim.runtime.predict.load import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from edgemim.runtime.predict.load import load

    return load
