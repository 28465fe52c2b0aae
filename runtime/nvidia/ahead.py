"""Engines that are built before the GPU is seen: TensorRT-RTX on any x86-64 machine, several GPUs in one file.

Such an engine is loaded by the very release that built it; `check` builds its own from the ONNX file otherwise. The
machine with the GPU finishes it when it is loaded for the first time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemim.artifact import Artifact, write_bytes
from edgemim.runtime.nvidia.host_check import build_for
from edgemim.runtime.nvidia.library import Library
from edgemim.runtime.nvidia.logger import open_log
from edgemim.runtime.nvidia.parse import parse_onnx


@dataclass(frozen=True, kw_only=True)
class AheadEngine:
    """An engine that goes into a bundle.

    Attributes:
        candidate: Name of the candidate that it runs.
        model: Name of the ONNX file that it was built from.
        file: Where it lies before it is in the bundle.
        built_with: Package and version; no other one loads it.
        compute_capabilities: Of the GPUs that it has code for.
    """

    candidate: str
    model: str
    file: Path
    built_with: str
    compute_capabilities: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its file in the bundle."""
        return f"engines/{self.candidate}.engine"

    def to_dict(self, model_sha256: str) -> dict[str, Any]:
        """What the manifest says of it."""
        return {
            "candidate": self.candidate,
            "file": self.name,
            "model": self.model,
            "model_sha256": model_sha256,
            "built_with": self.built_with,
            "compute_capabilities": list(self.compute_capabilities),
        }


def build_ahead(
    library: Library, model: Path, out: Path, *, candidate: str, capabilities: Sequence[str]
) -> AheadEngine:
    """Build one ONNX file for several GPUs, none of which need be here.

    Args:
        library: TensorRT-RTX.
        model: The ONNX file.
        out: The engine's file.
        candidate: Whose engine it is.
        capabilities: Such as "8.6"; the builder must know each.

    Raises:
        DeviceError: Its parser or builder refuses the model.
        OutputError: `out` cannot be written.
    """
    network = parse_onnx(library, open_log(library), model)
    plan = build_for(network, capabilities)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, plan)
    return AheadEngine(
        candidate=candidate,
        model=model.name,
        file=out,
        built_with=library.title,
        compute_capabilities=tuple(capabilities),
    )


def shipped_engine(bundle: Artifact, candidate: str, library: Library, *, capability: str | None = None) -> Path | None:
    """The engine that a bundle carries for a candidate, if this very library built it from the file that is there.

    Args:
        capability: Compute capability that the engine must have code for, such as "8.9"; None: any.
    """
    for entry in bundle.content.get("engines", []):
        same = bundle.files[entry["model"]].sha256 == entry["model_sha256"]
        fits = capability is None or capability in entry["compute_capabilities"]
        if entry["candidate"] == candidate and entry["built_with"] == library.title and same and fits:
            return bundle.file(entry["file"])
    return None
