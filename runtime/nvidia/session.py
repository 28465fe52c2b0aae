"""An engine that is loaded: its buffers, its stream, its CUDA graph, and the time that it takes on the GPU.

A run copies the inputs to the GPU, computes, and copies the outputs back, all in one stream. Two events around the
computing tell the time on the GPU apart from the time that the caller waits.

From the third run on the computing is one CUDA graph: launching a small model's kernels one by one takes the CPU
longer than the GPU takes to run them. The library sets itself up in the first run, which cannot be recorded. Where
recording fails, the kernels are launched one by one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edgemim.errors import DeviceError
from edgemim.runtime.backends._base import Arrays, Session, vendor_failures
from edgemim.runtime.nvidia.cudart import Cuda, CudaError
from edgemim.runtime.nvidia.inspection import inspect_engine
from edgemim.runtime.nvidia.library import Library
from edgemim.runtime.nvidia.logger import Log

_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64"}
_DTYPES |= {"UINT8": "uint8", "BOOL": "bool"}
_RUNS_BEFORE_CAPTURE = 2

_Made = TypeVar("_Made")


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    """An input or output: pinned host memory, and its place on the GPU."""

    name: str
    is_input: bool
    host: npt.NDArray[Any]
    device: int


class TensorRtSession(Session):
    """One execution context; not to be used from two threads."""

    def __init__(self, library: Library, log: Log, plan: bytes, cuda: Cuda) -> None:
        """Load an engine.

        Args:
            plan: What `build_engine` returned, on this machine, by this library.

        Raises:
            DeviceError: It is another machine's or library's, or the memory does not suffice.
        """
        self._library, self._log, self._cuda = library, log, cuda
        self._tensors: list[_Tensor] = []
        self._held = contextlib.ExitStack()
        self._stream = self._start = self._end = self._graph = 0
        self._runs = 0
        self._graph_trouble: str | None = None
        self._layers: dict[str, int] | None = None
        self._device_ms: float | None = None
        self._engine: Any = None
        self._context: Any = None
        log.clear()
        try:
            # A TypeError is how the binding says that the library gave nothing.
            with vendor_failures(library.name, "load the engine", CudaError, RuntimeError, TypeError):
                self._gpu = cuda.gpu()
                self._load(plan)
        except DeviceError:
            self.close()
            raise

    def _load(self, plan: bytes) -> None:
        runtime = self._library.module.Runtime(self._log.handle)
        self._engine = runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            title = self._library.title
            raise RuntimeError(f"{title} does not take it; check with --rebuild; it said: {self._log.reasons()}")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise RuntimeError(f"no context can be made, {self._log.reasons()}")
        cuda = self._cuda
        self._stream = self._hold(cuda.create_stream(), cuda.destroy_stream)
        self._start, self._end = (self._hold(cuda.create_event(), cuda.destroy_event) for _ in range(2))
        self._layers = inspect_engine(self._library, self._engine)
        for index in range(self._engine.num_io_tensors):
            self._add_tensor(self._engine.get_tensor_name(index))

    def _add_tensor(self, name: str) -> None:
        engine, trt = self._engine, self._library.module
        shape, dtype = tuple(engine.get_tensor_shape(name)), engine.get_tensor_dtype(name).name
        if dtype not in _DTYPES or -1 in shape:
            raise RuntimeError(f"tensor {name!r} is {dtype} {list(shape)}, which edgemim cannot pass")
        host = self._hold(self._cuda.pinned(shape, _DTYPES[dtype]), self._cuda.free_pinned)
        device = self._hold(self._cuda.allocate(host.nbytes), self._cuda.free)
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        self._tensors.append(_Tensor(name=name, is_input=is_input, host=host, device=device))
        if self._context.set_tensor_address(name, device) is False:
            raise RuntimeError(f"tensor {name!r} gets no address, {self._log.reasons()}")

    @property
    def device_ms(self) -> float | None:
        """Between the events around the latest run's computing; the copies do not count."""
        return self._device_ms

    def facts(self) -> dict[str, Any]:
        """Library, GPU and layers; where inputs and outputs lie; whether a CUDA graph is in use, else why not."""
        return {
            "library": self._library.title,
            "cuda": self._cuda.versions(),
            "gpu": self._gpu.name,
            "compute_capability": self._gpu.compute_capability,
            "multiprocessors": self._gpu.multiprocessors,
            "layers": self._layers,
            "host_memory": "pinned",
            "cuda_graph": bool(self._graph),
            "no_cuda_graph": self._graph_trouble,
        }

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        with vendor_failures(self._library.name, "run the model", CudaError, RuntimeError, ValueError):
            self._fill(inputs)
            self._prepare_graph()
            for tensor in self._tensors:
                if tensor.is_input:
                    self._cuda.copy_in(tensor.device, tensor.host, self._stream)
            self._cuda.record(self._start, self._stream)
            if self._graph:
                self._cuda.launch(self._graph, self._stream)
            else:
                self._enqueue()
            self._cuda.record(self._end, self._stream)
            outputs = [tensor for tensor in self._tensors if not tensor.is_input]
            for tensor in outputs:
                self._cuda.copy_out(tensor.host, tensor.device, self._stream)
            self._cuda.wait(self._stream)
            self._device_ms = self._cuda.milliseconds(self._start, self._end)
            self._runs += 1
            return {tensor.name: np.array(tensor.host) for tensor in outputs}

    def _fill(self, inputs: Mapping[str, npt.NDArray[Any]]) -> None:
        if self._context is None:
            raise ValueError("the session is closed")
        known = {tensor.name: tensor.host for tensor in self._tensors if tensor.is_input}
        if inputs.keys() != known.keys():
            raise ValueError(f"it takes the inputs {sorted(known)}, got {sorted(inputs)}")
        for name, array in inputs.items():
            host = known[name]
            if (array.shape, array.dtype) != (host.shape, host.dtype):
                wanted, got = (f"{a.dtype} {list(a.shape)}" for a in (host, array))
                raise ValueError(f"input {name!r} is {wanted}, got {got}")
            np.copyto(host, array)

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream):
            raise RuntimeError(self._log.reasons())

    def _prepare_graph(self) -> None:
        """Record the graph once the library has set itself up; if that fails, never again."""
        if self._graph or self._graph_trouble is not None or self._runs < _RUNS_BEFORE_CAPTURE:
            return
        try:
            self._graph = self._hold(self._cuda.capture(self._stream, self._enqueue), self._cuda.destroy_graph)
        except (CudaError, RuntimeError) as error:
            self._graph_trouble = " ".join(str(error).split())

    def _hold(self, made: _Made, give_back: Callable[[_Made], None]) -> _Made:
        """What was made, to be given back when the session closes, the last first."""

        def quietly() -> None:
            # After a failure of the device every call fails, and there is nothing left to give back.
            with contextlib.suppress(CudaError):
                give_back(made)

        self._held.callback(quietly)
        return made

    def close(self) -> None:
        self._held.close()
        self._context = self._engine = None
        self._tensors, self._graph = [], 0
