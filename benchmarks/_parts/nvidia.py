"""NVIDIA's own parser and builder, on a machine without a GPU: TensorRT for RTX builds for a GPU that is not there.

It tells whether a graph parses, and into how many kernels it is built; it cannot run them. SM86 is the nearest to a
Jetson Orin (SM87, the same family) that it builds for.

Needs: tensorrt_rtx; pip install 'edgemim[rtx]' (x86-64 Linux)
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from edgemim.runtime.nvidia.host_check import check_on_host
from edgemim.runtime.nvidia.library import TENSORRT_RTX, installed, load_library

_CAPABILITY = "8.6"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What NVIDIA's parser and builder made of a graph.

    Attributes:
        parsed, built: How far it came.
        kernels: That one inference launches; None where nothing was built.
        cpu_seconds: Of parsing and building.
        reason: Why it came no further, in one line.
    """

    parsed: bool
    built: bool
    kernels: int | None
    cpu_seconds: float
    reason: str | None


def is_installed() -> bool:
    """Nothing is imported."""
    return TENSORRT_RTX in installed()


def version() -> str:
    """Of TensorRT for RTX."""
    return load_library(TENSORRT_RTX).version


def judge(model: bytes) -> Verdict:
    """Parse a strongly typed network, and build it for SM86.

    Args:
        model: An ONNX file's bytes, weights included.

    Raises:
        MissingDependencyError: tensorrt_rtx is not installed.
    """
    library = load_library(TENSORRT_RTX)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(model)
        started = time.process_time()
        row = check_on_host(library, file, _CAPABILITY)
        seconds = round(time.process_time() - started, 1)
    built = row["kernels"] is not None
    reason = None if row["error"] is None else row["error"].partition(f"{file.name}: ")[2] or row["error"]
    return Verdict(parsed=row["parsed"], built=built, kernels=row["kernels"], cpu_seconds=seconds, reason=reason)
