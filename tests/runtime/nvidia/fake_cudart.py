"""A fake libcudart: the same calls over host memory, with streams that do nothing before they are waited for.

Work is queued and runs on `cudaStreamSynchronize`, so that who reads a result too early finds zeros. A clock of its own
advances by 1 ms for a copy and by 2.5 ms for an execution. It proves what the session asks of CUDA, in which order, and
nothing about CUDA.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from typing import Any

COPY_MS, EXECUTE_MS = 1.0, 2.5
INVALID_VALUE, OUT_OF_MEMORY, NO_DEVICE, CAPTURE_REFUSED = 1, 2, 100, 900
NAMES = {
    INVALID_VALUE: ("cudaErrorInvalidValue", "invalid argument"),
    OUT_OF_MEMORY: ("cudaErrorMemoryAllocation", "out of memory"),
    NO_DEVICE: ("cudaErrorNoDevice", "no CUDA-capable device is detected"),
    CAPTURE_REFUSED: ("cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"),
}

# What does the same here as another call.
_SAME = {"cudaDriverGetVersion": "cudaRuntimeGetVersion", "cudaMallocHost": "cudaMalloc"}
_SAME |= dict.fromkeys(
    ("cudaFreeHost", "cudaStreamDestroy", "cudaEventDestroy", "cudaGraphDestroy", "cudaGraphExecDestroy"), "cudaFree"
)

Work = Callable[[], None]


class _Function:
    """A call as ctypes gives it: with attributes for types."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call, self.argtypes, self.restype = call, None, None

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)


class FakeCudart:
    """One GPU.

    Attributes:
        failures: Status that a call returns instead of doing anything, by its name.
        calls: Names of all calls.
        live: What was created and not given back, by address or handle.
    """

    def __init__(
        self, *, gpus: int = 1, name: str = "Orin", capability: tuple[int, int] = (8, 7), sms: int = 8
    ) -> None:
        self.gpus, self.name, self.capability, self.sms = gpus, name, capability, sms
        self.free_bytes, self.total_bytes = 4 << 30, 8 << 30
        self.failures: dict[str, int] = {}
        self.calls: list[str] = []
        self.live: dict[int, Any] = {}
        self.queues: dict[int, list[Work]] = {}
        self.recording: dict[int, list[Work] | None] = {}
        self.reached: dict[int, float] = {}
        self.clock = 0.0
        self._handles = itertools.count(1 << 40)
        self._functions: dict[str, _Function] = {}

    def __getattr__(self, name: str) -> _Function:
        if not name.startswith("cuda"):
            raise AttributeError(name)
        if name not in self._functions:
            real = getattr(self, f"_{_SAME.get(name, name)}")

            def call(*arguments: Any) -> Any:
                self.calls.append(name)
                return self.failures[name] if name in self.failures else real(*arguments)

            self._functions[name] = _Function(call)
        return self._functions[name]

    def enqueue(self, stream: int, work: Work) -> None:
        """Put work into a stream, or into the graph that it is recording."""
        recording = self.recording.get(stream)
        (self.queues[stream] if recording is None else recording).append(work)

    def execute(self, stream: int, work: Work) -> None:
        """What a library does that computes on the GPU."""

        def run() -> None:
            work()
            self.clock += EXECUTE_MS

        self.enqueue(stream, run)

    def _make(self, out: Any, thing: Any) -> int:
        handle = next(self._handles)
        self.live[handle] = thing
        out._obj.value = handle
        return 0

    def _drop(self, handle: int) -> int:
        return INVALID_VALUE if self.live.pop(handle, None) is None else 0

    def _cudaGetErrorName(self, status: int) -> bytes | None:  # noqa: N802
        return NAMES[status][0].encode() if status in NAMES else None

    def _cudaGetErrorString(self, status: int) -> bytes | None:  # noqa: N802
        return NAMES[status][1].encode() if status in NAMES else None

    def _cudaGetLastError(self) -> int:  # noqa: N802
        return 0

    def _cudaGetDeviceCount(self, out: Any) -> int:  # noqa: N802
        out._obj.value = self.gpus
        return 0 if self.gpus else NO_DEVICE

    def _cudaGetDeviceProperties(self, out: Any, index: int) -> int:  # noqa: N802
        out.value = self.name.encode()
        return 0

    def _cudaDeviceGetAttribute(self, out: Any, attribute: int, index: int) -> int:  # noqa: N802
        out._obj.value = {16: self.sms, 75: self.capability[0], 76: self.capability[1]}[attribute]
        return 0

    def _cudaRuntimeGetVersion(self, out: Any) -> int:  # noqa: N802
        out._obj.value = 12060
        return 0

    def _cudaMemGetInfo(self, free: Any, total: Any) -> int:  # noqa: N802
        free._obj.value, total._obj.value = self.free_bytes, self.total_bytes
        return 0

    def _cudaMalloc(self, out: Any, size: int) -> int:  # noqa: N802
        memory = (ctypes.c_byte * size)()
        out._obj.value = ctypes.addressof(memory)
        self.live[out._obj.value] = memory
        return 0

    def _cudaFree(self, address: int) -> int:  # noqa: N802
        return self._drop(address)

    def _cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> int:  # noqa: N802
        if {1: to, 2: source}[kind] not in self.live:
            return INVALID_VALUE

        def copy() -> None:
            ctypes.memmove(to, source, size)
            self.clock += COPY_MS

        self.enqueue(stream, copy)
        return 0

    def _cudaStreamCreateWithFlags(self, out: Any, flags: int) -> int:  # noqa: N802
        status = self._make(out, "stream")
        self.queues[out._obj.value] = []
        return status

    def _cudaStreamSynchronize(self, stream: int) -> int:  # noqa: N802
        if self.recording.get(stream) is not None:
            return CAPTURE_REFUSED
        queue, self.queues[stream] = self.queues[stream], []
        for work in queue:
            work()
        return 0

    def _cudaEventCreateWithFlags(self, out: Any, flags: int) -> int:  # noqa: N802
        return self._make(out, "event")

    def _cudaEventRecord(self, event: int, stream: int) -> int:  # noqa: N802
        self.enqueue(stream, lambda: self.reached.update({event: self.clock}))
        return 0

    def _cudaEventElapsedTime(self, out: Any, start: int, end: int) -> int:  # noqa: N802
        out._obj.value = self.reached[end] - self.reached[start]
        return 0

    def _cudaStreamBeginCapture(self, stream: int, mode: int) -> int:  # noqa: N802
        self.recording[stream] = []
        return 0

    def _cudaStreamEndCapture(self, stream: int, out: Any) -> int:  # noqa: N802
        recording, self.recording[stream] = self.recording[stream], None
        return self._make(out, recording)

    def _cudaGraphInstantiateWithFlags(self, out: Any, graph: int, flags: int) -> int:  # noqa: N802
        return self._make(out, list(self.live[graph]))

    def _cudaGraphLaunch(self, graph: int, stream: int) -> int:  # noqa: N802
        for work in self.live[graph]:
            self.enqueue(stream, work)
        return 0
