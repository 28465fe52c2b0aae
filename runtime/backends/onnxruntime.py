"""ONNX Runtime on the CPU: the reference that other backends are compared with.

The engine is the bundle's ONNX file itself, whose hash was checked; there is nothing to cache.

A symmetric Q/DQ graph needs two settings to be fast and right on x86 (benchmarks/int8_onnxruntime.py). Newer
releases turn MatMul and Add into Gemm before they look for Q/DQ, and have no integer Gemm with a float bias: the
layer then runs in float, behind nodes that convert. Without that fusion it becomes MatMulIntegerToFloat, and
ONNX Runtime itself turns int8 activations into the uint8 that its kernels take. And without VNNI those kernels
add pairs of products in 16 bits, which saturate; at the price of some speed they need not.

Of the engine's options, `provider` is the session's, the two numbers of threads are attributes of its options,
and every other is an entry of their configuration.

Source: https://onnxruntime.ai/docs/api/python/api_summary.html; MLAS (microsoft/onnxruntime,
onnxruntime/core/mlas/lib/platform.cpp) for which kernel runs on which CPU

Needs: onnxruntime; pip install 'edgemim[onnxruntime]'
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy.typing as npt

from edgemim.errors import DeviceError
from edgemim.runtime.backends import BACKENDS
from edgemim.runtime.backends._base import (
    NOT_LOADED,
    Arrays,
    Backend,
    Engine,
    Session,
    owned,
    require,
    vendor_failure,
    vendor_failures,
)
from edgemim.runtime.bundle import Bundle
from edgemim.runtime.candidates import Candidate
from edgemim.runtime.device import cpu_identity

_PROVIDER = "CPUExecutionProvider"
_ERRORS_ONLY = 3
_ATTRIBUTES = ("intra_op_num_threads", "inter_op_num_threads")
_KEEP_MATMUL = {"optimization.disable_specified_optimizers": "MatMulAddFusion"}
_EXACT_PRODUCTS = {"session.x64quantprecision": "1"}


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
        options = {
            "provider": _PROVIDER,
            "intra_op_num_threads": threads,
            "inter_op_num_threads": 1,
            **(int8_settings(cpu_identity()["isa"]) if candidate.precision == "int8" else {}),
            **candidate.options,
        }
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
        try:
            outputs = self._session.run(self._outputs, dict(inputs))
        except self._failures as error:
            raise vendor_failure("onnxruntime", "run the model", error) from error
        return {name: owned(array) for name, array in zip(self._outputs, outputs, strict=True)}

    def close(self) -> None:
        self._session = None


def int8_settings(isa: Collection[str]) -> dict[str, str]:
    """Entries of the session's configuration for a Q/DQ graph on a CPU with these of `device.ISA_FLAGS`."""
    saturates = "avx2" in isa and not {"avx_vnni", "avx512_vnni"} & set(isa)
    return _KEEP_MATMUL | (_EXACT_PRODUCTS if saturates else {})


def _load(file: Path, options: Mapping[str, Any]) -> Any:
    with vendor_failures("onnxruntime", "be imported", *NOT_LOADED):
        import onnxruntime

    onnxruntime.disable_telemetry_events()
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    for name in _ATTRIBUTES:
        setattr(settings, name, options[name])
    for name in options.keys() - {"provider", *_ATTRIBUTES}:
        settings.add_session_config_entry(name, str(options[name]))
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
