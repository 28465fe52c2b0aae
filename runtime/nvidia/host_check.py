"""NVIDIA's own parser and builder on a machine without the device: what they make of a candidate.

TensorRT-RTX builds for GPUs that are not there. It has no code for those of a Jetson, so the nearest GPU stands in:
8.6 for an Orin (8.7, the same family), 12.0 for a Thor (11.0). It proves that NVIDIA's parser takes the graph, and
shows into how many kernels the builder turns it; it says nothing about time, and another release may do otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgemim.errors import DeviceError, EdgemimError
from edgemim.runtime.nvidia.library import EXTRAS, TENSORRT_RTX, Library, installed, load_library
from edgemim.runtime.nvidia.listing import Structure, read_kernels, read_structure
from edgemim.runtime.nvidia.logger import open_log
from edgemim.runtime.nvidia.parse import Network, parse_onnx

NOT_CHECKED = "not checked on the host"

Row = dict[str, Any]


def host_builder() -> Library | str:
    """TensorRT-RTX, or why it cannot check anything here."""
    if TENSORRT_RTX not in installed():
        return f"the package {TENSORRT_RTX!r} is not installed; run: pip install 'edgemim[{EXTRAS[TENSORRT_RTX]}]'"
    try:
        return load_library(TENSORRT_RTX)
    except EdgemimError as error:
        return str(error)


def check_on_host(library: Library, file: Path, capability: str) -> Row:
    """Parse one ONNX file, build it for one GPU, and read what the builder made of it.

    Args:
        library: What `host_builder` returned.
        file: An ONNX file.
        capability: Compute capability of the GPU, such as "8.7"; the nearest that the builder knows is taken.

    Returns:
        A row of the manifest's `host_check`, but for the candidate's name. `compute_capability` is what was built
        for, and `stands_for` what was asked for, None if that is the same; `int8_gemms` are the products with weights
        that read INT8, `int8_convolutions` the convolutions that do; `fused_mha` the attentions that are one kernel,
        `int8_mha` those of them that read INT8, `unfused_softmax` the softmaxes outside of one; `mha_inputs` has the
        types by torch module, None where unfused. What could not be seen is None, and `error` says why.
    """
    nearest = nearest_capability(library, capability)
    row = _row(
        builder=library.title, compute_capability=nearest, stands_for=None if nearest == capability else capability
    )
    try:
        network = parse_onnx(library, open_log(library), file)
    except DeviceError as error:
        return row | {"parsed": False, "error": str(error)}
    try:
        return row | {"parsed": True, **_facts(build_structure(network, nearest))}
    except DeviceError as error:
        return row | {"parsed": True, "error": str(error)}


def not_checked(candidate: str, why: str) -> Row:
    """The row of a candidate that nobody could look at here."""
    return {"candidate": candidate, **_row(note=f"{NOT_CHECKED}: {why}")}


def nearest_capability(library: Library, wanted: str) -> str:
    """The compute capability itself if the builder knows it; else the next below in its family, else the next above."""
    names = (name.removeprefix("SM") for name in library.module.ComputeCapability.__members__)
    known = sorted((int(digits[:-1]), int(digits[-1])) for digits in names if digits.isdigit())
    major, minor = (int(part) for part in wanted.split("."))
    below = [found for found in known if found[0] == major and found[1] <= minor]
    above = [found for found in known if found > (major, minor)]
    chosen = below[-1] if below else (above or known[-1:])[0]
    return f"{chosen[0]}.{chosen[1]}"


def build_structure(network: Network, capability: str) -> Structure:
    """Build for one GPU, and read from the log what the engine consists of.

    Raises:
        DeviceError: The builder refuses the network, or does not list its kernels.
    """
    with network.log.recording() as messages:
        build_for(network, [capability])
        kernels = read_kernels(messages)
    if not kernels:
        raise DeviceError(f"{network.library.title} does not list its kernels; use another release to see them")
    return read_structure(kernels, network.onnx)


def build_for(network: Network, capabilities: Sequence[str]) -> bytes:
    """An engine for GPUs that need not be here, in one piece.

    Args:
        network: Parsed by TensorRT-RTX.
        capabilities: Such as "8.6", each one that the builder knows.

    Raises:
        DeviceError: The builder refuses it.
    """
    trt = network.library.module
    config = network.builder.create_builder_config()
    config.num_compute_capabilities = len(capabilities)
    for position, capability in enumerate(capabilities):
        config.set_compute_capability(trt.ComputeCapability.__members__[f"SM{capability.replace('.', '')}"], position)
    # Without it the builder does not list its kernels, and an engine does not name its layers.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    plan = network.builder.build_serialized_network(network.definition, config)
    if plan is None:
        gpus, reasons = ", ".join(capabilities), network.log.reasons()
        raise DeviceError(f"{network.library.name} cannot build {network.file.name} for {gpus}: {reasons}")
    return bytes(plan)


def _facts(structure: Structure) -> Row:
    return {
        "kernels": structure.kernels,
        "int8_gemms": structure.products.get("Int8", 0),
        "int8_convolutions": structure.convolutions.get("Int8", 0),
        "fused_mha": structure.fused.total(),
        "int8_mha": structure.fused["Int8"],
        "unfused_softmax": structure.unfused,
        "mha_inputs": dict(structure.attentions),
    }


def _row(
    *,
    builder: str | None = None,
    compute_capability: str | None = None,
    stands_for: str | None = None,
    note: str | None = None,
) -> Row:
    """A row of which nothing was seen yet."""
    counts = ("kernels", "int8_gemms", "int8_convolutions", "fused_mha", "int8_mha", "unfused_softmax")
    unseen = ("parsed", *counts, "mha_inputs", "error")
    known = {"compute_capability": compute_capability, "stands_for": stands_for, "builder": builder}
    return {**known, **dict.fromkeys(unseen), "note": note}
