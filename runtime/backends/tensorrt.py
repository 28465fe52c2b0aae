"""TensorRT on an NVIDIA GPU: engines built on the very device that runs them.

TensorRT 10 and later take every type from the graph; these run the flavours in float16 with opset 20. TensorRT 8.6
(JetPack 6.0) reads opset 17 only and chooses float16 itself where a flag allows it; it runs the fp32 flavours, fp16 and
INT8 candidates with flags. INT8 is where the graph has Q/DQ, in both. TensorRT-RTX serves where TensorRT is not
installed.

Source: NVIDIA/TensorRT, python/src/infer, and the support matrices of 8.6 to 11.4

Needs: tensorrt; pip install 'edgemim[tensorrt]', on a Jetson the apt package python3-libnvinfer
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from edgemim.artifact import write_bytes
from edgemim.errors import ConfigError, DeviceError
from edgemim.runtime.backends import BACKENDS
from edgemim.runtime.backends._base import Backend, Engine, Session, require, vendor_failures
from edgemim.runtime.bundle import Bundle
from edgemim.runtime.cache import cached_build
from edgemim.runtime.candidates import Candidate
from edgemim.runtime.nvidia.ahead import shipped_engine
from edgemim.runtime.nvidia.build import BuildSettings, build_engine, precision_flags, workspace_for
from edgemim.runtime.nvidia.cudart import Cuda, CudaError, gpu_trouble, load_cuda
from edgemim.runtime.nvidia.engines import PLAN, TIMINGS, engine_facts, machine_facts, timings_file
from edgemim.runtime.nvidia.library import TENSORRT, TENSORRT_RTX, Library, how_to_install, load_library
from edgemim.runtime.nvidia.logger import open_log
from edgemim.runtime.nvidia.parse import parse_onnx
from edgemim.runtime.nvidia.session import TensorRtSession

# Of a flavour that is made for flags; newer ones carry their types.
_OPSET_FOR_FLAGS = 17
_LONGEST_SEARCH = 5


class TensorRtBackend(Backend):
    """The first GPU; static shapes; CUDA graph; pinned host memory."""

    name: ClassVar[str] = "tensorrt"
    module: ClassVar[str] = TENSORRT
    alternatives: ClassVar[tuple[str, ...]] = (TENSORRT_RTX,)
    distributions: ClassVar[tuple[str, ...]] = ("tensorrt", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12")
    extra: ClassVar[str] = "tensorrt"
    processor: ClassVar[str] = "GPU"
    compares_with_reference: ClassVar[bool] = True

    def compile(self, bundle: Bundle, candidate: Candidate, cache: Path, threads: int) -> Engine:
        require(self)  # the CPU's threads have no part in it
        library = load_library()
        reason = self.cannot_run(candidate)
        if reason is not None:
            raise DeviceError(f"{self.name} cannot compile {candidate.file}: {reason}")
        file = bundle.artifact.file(candidate.file)
        options = _options(library, candidate)
        with vendor_failures(self.name, f"compile {file.name}", CudaError):
            cuda = load_cuda()
            machine = machine_facts(library, cuda)
            facts = engine_facts(self.name, machine, bundle.artifact.files[candidate.file].sha256, options)
            timings = timings_file(cache, self.name, machine)
            capability = machine["compute_capability"]
            ready = shipped_engine(bundle.artifact, candidate.name, library, capability=capability)

            def build(folder: Path) -> None:
                if ready is not None:
                    shutil.copyfile(ready, folder / PLAN)
                else:
                    write_bytes(folder / PLAN, _build(library, file, candidate, cuda, options, timings))

            built = cached_build(cache, facts, build)
        return Engine(
            backend=self.name,
            file=built.folder / PLAN,
            options=options,
            folder=built.folder,
            compile_s=built.seconds,
            cached=built.cached,
        )

    def open(self, engine: Engine) -> Session:
        require(self)
        library = load_library()
        return TensorRtSession(library, open_log(library), engine.file.read_bytes(), load_cuda())

    def available(self) -> str | None:
        return super().available() or gpu_trouble()

    def version(self) -> str:
        # The package that apt installs has no metadata that pip could read.
        return load_library().version

    def how_to_install(self) -> str:
        return how_to_install()

    def cannot_run(self, candidate: Candidate) -> str | None:
        library = load_library()
        if library.trouble is not None:
            return library.trouble
        newest = library.newest_opset
        if newest is not None and candidate.opset > newest:
            return f"it has opset {candidate.opset}, {library.title} reads up to {newest}"
        if newest is None and candidate.opset <= _OPSET_FOR_FLAGS and candidate.precision != "fp32":
            return (
                f"it is for TensorRT 8, which chooses {candidate.precision} by flags; {library.title} takes the types "
                "from the graph, which are fp32 here"
            )
        return None

    def free_device_memory(self) -> int | None:
        with vendor_failures(self.name, "ask for the GPU's memory", CudaError):
            return load_cuda().memory()[0]

    def forget(self, cache: Path) -> None:
        shutil.rmtree(cache / self.name / TIMINGS, ignore_errors=True)


def _options(library: Library, candidate: Candidate) -> dict[str, Any]:
    """What an engine is built with, for its key and the report; the candidate's own settings over ours."""
    options: dict[str, Any] = {
        "library": library.name,
        "types": "from the graph" if library.takes_types_from_the_graph else "by flags",
        "flags": " ".join(precision_flags(library, candidate.precision)),
        "optimization_level": _LONGEST_SEARCH,
    }
    unknown = candidate.options.keys() - {"optimization_level"}
    if unknown:
        raise ConfigError(f"candidate {candidate.name!r} has settings that tensorrt does not know: {sorted(unknown)}")
    return options | dict(candidate.options)


def _build(
    library: Library, file: Path, candidate: Candidate, cuda: Cuda, options: Mapping[str, Any], timings: Path
) -> bytes:
    network = parse_onnx(library, open_log(library), file)
    free, _ = cuda.memory()
    settings = BuildSettings(
        precision=candidate.precision,
        optimization_level=int(options["optimization_level"]),
        workspace=workspace_for(free),
        free=free,
    )
    return build_engine(network, settings, timings)


BACKENDS.add("tensorrt", TensorRtBackend)
