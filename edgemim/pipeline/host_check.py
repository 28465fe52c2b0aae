"""What NVIDIA's builder, run on the exporting machine, makes of the candidates of a bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgemim.artifact import Artifact
from edgemim.errors import MissingDependencyError
from edgemim.runtime.candidates import make_candidates
from edgemim.runtime.nvidia.ahead import AheadEngine, build_ahead
from edgemim.runtime.nvidia.host_check import Row, check_on_host, host_builder, not_checked
from edgemim.runtime.nvidia.library import EXTRAS, TENSORRT_RTX, installed, load_library
from edgemim.runtime.targets._base import Target

Say = Callable[[str], None]


def check_candidates(onnx: Artifact, target: Target, *, say: Say) -> list[Row]:
    """One row per candidate and GPU of the target, see `check_on_host`; without TensorRT-RTX they say why.

    Args:
        onnx: What the bundle will be made from, inputs and batch as they will be.
        target: One of NVIDIA's.
        say: Called with a line for each candidate that the parser or the builder refuses.
    """
    candidates, library = make_candidates(onnx, target), host_builder()
    if isinstance(library, str):
        return [not_checked(candidate.name, library) for candidate in candidates]
    rows = []
    seen: dict[tuple[str, str], Row] = {}
    for candidate in candidates:
        for capability in target.compute_capabilities:
            key = (candidate.file, capability)
            seen[key] = seen.get(key) or check_on_host(library, onnx.file(candidate.file), capability)
            rows.append({"candidate": candidate.name, **seen[key]})
            if rows[-1]["error"] is not None:
                say(f"candidate {candidate.name!r}: {rows[-1]['error']}")
    return rows


def require_builder(target: Target) -> None:
    """Stop before anything is exported for a target whose engines could not be built in the end.

    Raises:
        MissingDependencyError: TensorRT-RTX is not installed.
    """
    if target.builds_ahead and TENSORRT_RTX not in installed():
        raise MissingDependencyError(f"target {target.name!r}", TENSORRT_RTX, EXTRAS[TENSORRT_RTX])


def build_engines(onnx: Artifact, target: Target, folder: Path) -> list[AheadEngine]:
    """An engine for every candidate but the fp32 reference, in one file for all GPUs of the target.

    Args:
        folder: Where the engines are put until they are in the bundle.

    Raises:
        MissingDependencyError: TensorRT-RTX is not installed.
        DeviceError: It cannot be loaded, or refuses a candidate.
    """
    library = load_library(TENSORRT_RTX)
    return [
        build_ahead(
            library,
            onnx.file(candidate.file),
            folder / f"{candidate.name}.engine",
            candidate=candidate.name,
            capabilities=target.compute_capabilities,
        )
        for candidate in make_candidates(onnx, target)
        if candidate.precision != "fp32"
    ]
