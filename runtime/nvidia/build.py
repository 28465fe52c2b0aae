"""From a network to an engine: the builder's settings, the cache of its timings, and why it refuses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemim.artifact import write_bytes, writing
from edgemim.errors import DeviceError
from edgemim.runtime.nvidia.library import Library
from edgemim.runtime.nvidia.parse import Network

MIB = 2**20
LARGEST_WORKSPACE = 1024 * MIB
# Where flags choose the precision: INT8 only beside the Q/DQ that says where, FP16 for what lies between.
_FLAGS = {"fp32": (), "fp16": ("FP16",), "int8": ("FP16", "INT8")}
_OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemory|MemoryAllocation|bad_alloc|insufficient (gpu |device |host )?memory|failed to allocate",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """How an engine is built.

    Attributes:
        precision: Of the candidate; it decides the flags where the library does not take types from the graph.
        optimization_level: 0 to 5; 3 is the library's own, 5 looks longest for faster kernels.
        workspace: Bytes of scratch memory that the kernels may use.
        free: Bytes of memory that were free before, for the message when it was not enough.
    """

    precision: str
    optimization_level: int
    workspace: int
    free: int


def precision_flags(library: Library, precision: str) -> tuple[str, ...]:
    """Builder flags that a candidate of this precision is built with; none where the graph carries the types.

    Raises:
        DeviceError: The library chooses types by flags, and has none for this precision.
    """
    if library.takes_types_from_the_graph:
        return ()
    flags = _FLAGS.get(precision)
    if flags is None or any(library.flag(name) is None for name in flags):
        raise DeviceError(f"{library.name}: {library.title} has no flag for {precision}")
    return flags


def workspace_for(free: int) -> int:
    """Bytes of scratch memory to allow when so many are free: a quarter, at most 1 GiB."""
    return min(LARGEST_WORKSPACE, free // 4)


def build_engine(network: Network, settings: BuildSettings, timings: Path | None) -> bytes:
    """Build an engine for the GPU of this machine.

    Args:
        timings: File of kernel timings that earlier builds measured, read and written again: with it the next build
            is faster and chooses the same kernels. None: measure all.

    Raises:
        DeviceError: `<library> cannot compile <file>: ` and the errors of its log, or that memory ran out.
        OutputError: The timings cannot be written.
    """
    library, log = network.library, network.log
    log.clear()
    config = _configure(network, settings)
    keeps = timings is not None and not library.builds_for_other_gpus  # TensorRT-RTX times nothing
    if keeps and timings is not None:
        _load_timings(config, timings)
    try:
        plan = network.builder.build_serialized_network(network.definition, config)
    except (RuntimeError, MemoryError) as error:
        raise _refusal(network, settings, f"{log.reasons()}; {error}") from error
    if plan is None:
        raise _refusal(network, settings, log.reasons())
    if keeps and timings is not None:
        _save_timings(config, timings)
    return bytes(plan)


def _configure(network: Network, settings: BuildSettings) -> Any:
    library, trt = network.library, network.library.module
    config = network.builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace)
    config.builder_optimization_level = settings.optimization_level
    # Else the engine cannot say which kernels it has.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    names = precision_flags(library, settings.precision)
    if "INT8" in names and not network.has_qdq:
        raise _refusal(network, settings, "it is to be int8, and no Q/DQ in it says where")
    for name in names:
        config.set_flag(library.flag(name))
    if settings.precision == "fp32":
        # Products in TF32 keep 10 bits: an fp32 reference would not be one.
        config.clear_flag(library.flag("TF32"))
    if library.builds_for_other_gpus:
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.CURRENT, 0)
    return config


def _load_timings(config: Any, file: Path) -> None:
    known = file.read_bytes() if file.is_file() else b""
    cache = config.create_timing_cache(known)
    # Refused if it is damaged, or of another version or device: then all is measured again.
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _save_timings(config: Any, file: Path) -> None:
    cache = config.get_timing_cache()
    blob = None if cache is None else cache.serialize()
    if blob is not None:
        with writing(file, instead="set XDG_CACHE_HOME to a folder with room"):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(file, bytes(blob))


def _refusal(network: Network, settings: BuildSettings, reason: str) -> DeviceError:
    start = f"{network.library.name} cannot compile {network.file.name}: "
    if _OUT_OF_MEMORY.search(reason):
        return DeviceError(
            f"{start}the memory ran out ({settings.free // MIB} MiB were free): close what else runs, a desktop "
            f"first, or leave this candidate out with --candidates; it said: {reason}"
        )
    return DeviceError(f"{start}{reason}")
