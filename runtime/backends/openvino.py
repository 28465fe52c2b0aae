"""OpenVINO on the CPU, tuned for the latency of one image at a time.

The precision hint is always f32: by default OpenVINO computes an fp32 model in bf16 on CPUs that can, and a
baseline would silently not be one. INT8 comes from the Q/DQ nodes of the graph, not from a hint.

Source: https://docs.openvino.ai/2026/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device.html

Needs: openvino; pip install 'edgemim[openvino]'
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy.typing as npt

from edgemim.runtime.backends import BACKENDS
from edgemim.runtime.backends._base import (
    Arrays,
    Backend,
    Engine,
    Session,
    owned,
    require,
    vendor_failures,
)
from edgemim.runtime.bundle import Bundle, Candidate
from edgemim.runtime.cache import cached_build
from edgemim.runtime.device import cpu_identity

_DEVICE = "CPU"


class OpenVinoBackend(Backend):
    """The CPU plugin: LATENCY hint, one stream, f32, a fixed number of threads, static shapes."""

    name: ClassVar[str] = "openvino"
    module: ClassVar[str] = "openvino"
    distributions: ClassVar[tuple[str, ...]] = ("openvino",)
    extra: ClassVar[str] = "openvino"
    processor: ClassVar[str] = "CPU"

    def compile(self, bundle: Bundle, candidate: Candidate, cache: Path, threads: int) -> Engine:
        require(self)
        file = bundle.artifact.file(candidate.file)
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        facts = {
            "model": bundle.artifact.files[candidate.file].sha256,
            "backend": self.name,
            "version": self.version(),
            "device": cpu_identity(),
            "options": options,
        }
        built = cached_build(cache, facts, lambda folder: _compile(file, options, folder))
        return Engine(
            backend=self.name,
            file=file,
            options=options,
            folder=built.folder,
            compile_s=built.seconds,
            cached=built.cached,
        )

    def open(self, engine: Engine) -> Session:
        require(self)
        assert engine.folder is not None
        return OpenVinoSession(_compile(engine.file, engine.options, engine.folder))


class OpenVinoSession(Session):
    """One compiled model and one synchronous infer request."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self._outputs = {port.get_any_name(): port for port in compiled.outputs}

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        with vendor_failures("openvino", "run the model", RuntimeError, TypeError, ValueError):
            results = self._request.infer(dict(inputs), share_inputs=True, share_outputs=False)
        return {name: owned(results[port]) for name, port in self._outputs.items()}

    def close(self) -> None:
        self._request = None
        self._outputs = {}


def _compile(file: Path, options: Mapping[str, Any], folder: Path) -> Any:
    """Compile, or load the blob that an earlier compilation left in `folder`."""
    with vendor_failures("openvino", f"compile {file.name}", RuntimeError):
        core = _core()
        # Read first and compiled from memory: OpenVINO then finds its blob by what the model holds, not by
        # the path it lies at.
        model = core.read_model(str(file))
        if model.is_dynamic():
            raise RuntimeError("the model has dynamic shapes, an edge engine needs static ones")
        return core.compile_model(model, _DEVICE, {**options, "CACHE_DIR": str(folder), "LOG_LEVEL": "LOG_NONE"})


@functools.cache
def _core() -> Any:
    """The one Core of this process.

    The CPU plugin sets a signal stack per Core; when two live at once the wrong one is put back, and the next
    signal, such as Ctrl-C, ends the process with a segmentation fault.
    """
    import openvino

    return openvino.Core()


BACKENDS.add("openvino", OpenVinoBackend)
