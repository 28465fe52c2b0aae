"""What an engine depends on, so that one is found again here and never tried elsewhere.

An engine runs on the version of the library and the GPU that it was built with; its kernels were chosen by timing them
on this board in this power mode. All that goes into the key under which `edgemim.runtime.cache` keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgemim.runtime.cache import engine_key
from edgemim.runtime.device import describe_device
from edgemim.runtime.nvidia.cudart import Cuda
from edgemim.runtime.nvidia.library import Library

PLAN = "model.plan"
TIMINGS = "timings"


def machine_facts(library: Library, cuda: Cuda, root: Path = Path("/")) -> dict[str, Any]:
    """The library, GPU, board and power mode that an engine is built on; None where there is no such thing."""
    gpu, device = cuda.gpu(), describe_device(root)
    return {
        "library": library.title,
        "gpu": gpu.name,
        "compute_capability": gpu.compute_capability,
        "multiprocessors": gpu.multiprocessors,
        "board": device.board,
        "l4t": device.l4t,
        "power_mode": device.power_mode,
    }


def engine_facts(
    backend: str, machine: Mapping[str, Any], model_sha256: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The key of an engine, for `edgemim.runtime.cache.cached_build`.

    Args:
        backend: Its name.
        machine: What `machine_facts` gave.
        model_sha256: Of the ONNX file.
        options: Of the build.
    """
    return {"backend": backend, "model": model_sha256, "machine": dict(machine), "options": dict(options)}


def timings_file(cache: Path, backend: str, machine: Mapping[str, Any]) -> Path:
    """Where the kernel timings of this machine are kept, for all engines built on it."""
    return cache / backend / TIMINGS / f"{engine_key(machine)}.bin"
