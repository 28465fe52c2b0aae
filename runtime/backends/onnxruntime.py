"""ONNX Runtime on the CPU: the reference that other backends are compared with.

The engine is the bundle's ONNX file itself, whose hash was checked; there is nothing to cache.

Source: https://onnxruntime.ai/docs/api/python/api_summary.html

Needs: onnxruntime; pip install 'edgemim[onnxruntime]'
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy.typing as npt

from edgemim.errors import DeviceError
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

_PROVIDER = "CPUExecutionProvider"
_ERRORS_ONLY = 3


class OnnxRuntimeBackend(Backend):
    """CPUExecutionProvider, sequential execution, a fixed number of threads."""

    name: ClassVar[str] = "onnxruntime"
    module: ClassVar[str] = "onnxruntime"
    distributions: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")
    extra: ClassVar[str] = "onnxruntime"
    processor: ClassVar[str] = "CPU"

    def compile(  # the engine is the file, so the cache stays unused
        self,
        bundle: Bundle,
        candidate: Candidate,
        cache: Path,
        threads: int,
    ) -> Engine:
        require(self)
        file = bundle.artifact.file(candidate.file)
        options = {"provider": _PROVIDER, "intra_op_num_threads": threads, "inter_op_num_threads": 1}
        started = time.perf_counter()
        # Loading is compiling here: a model that cannot be loaded is refused now, not while measuring.
        _load(file, options)
        seconds = time.perf_counter() - started
        return Engine(backend=self.name, file=file, options=options, folder=None, compile_s=seconds, cached=False)

    def open(self, engine: Engine) -> Session:
        require(self)
        return OnnxRuntimeSession(_load(engine.file, engine.options))


class OnnxRuntimeSession(Session):
    """One `onnxruntime.InferenceSession`."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]
        self._failures = _failures()

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        with vendor_failures("onnxruntime", "run the model", *self._failures):
            outputs = self._session.run(self._outputs, dict(inputs))
        return {name: owned(array) for name, array in zip(self._outputs, outputs, strict=True)}

    def close(self) -> None:
        self._session = None


def _load(file: Path, options: Mapping[str, Any]) -> Any:
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    settings.intra_op_num_threads = options["intra_op_num_threads"]
    settings.inter_op_num_threads = options["inter_op_num_threads"]
    settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    with vendor_failures("onnxruntime", f"load {file.name}", *_failures()):
        session = onnxruntime.InferenceSession(str(file), settings, providers=[options["provider"]])
    # A provider that cannot be loaded is replaced without an error.
    found = session.get_providers()
    if found != [options["provider"]]:
        raise DeviceError(f"onnxruntime chose the providers {found} instead of {options['provider']}")
    return session


def _failures() -> tuple[type[Exception], ...]:
    """ONNX Runtime's exceptions have no common base class below Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError)


BACKENDS.add("onnxruntime", OnnxRuntimeBackend)
