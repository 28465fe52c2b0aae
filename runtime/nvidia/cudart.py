"""CUDA's runtime library through ctypes: memory, copies, a stream, events, graphs; an engine needs no more to run.

So a board needs neither pycuda nor cuda-python, of which NVIDIA changed the import path and which JetPack does not
bring. Only calls that CUDA 12 and 13 have in the same form are used.

Source: CUDA Runtime API, https://docs.nvidia.com/cuda/cuda-runtime-api
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim.errors import DeviceError

# The unversioned name is a link of the toolkit; a board without it has the file of its own CUDA.
NAMES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12")
_OK = 0
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
# A stream that does not wait for the legacy default stream, which cannot be captured.
_NON_BLOCKING = 1
# Other threads may go on allocating while this one records a graph.
_CAPTURE_THREAD_LOCAL = 1
_MULTIPROCESSORS, _MAJOR, _MINOR = 16, 75, 76
# A cudaDeviceProp begins with the name, 256 bytes in every version; the whole takes less than this.
_PROPERTIES_SIZE, _NAME_SIZE = 8192, 256

_Int, _Size, _Pointer, _Out = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "cudaGetDeviceCount": (_Out,),
    "cudaGetDeviceProperties": (_Out, _Int),
    "cudaDeviceGetAttribute": (_Out, _Int, _Int),
    "cudaRuntimeGetVersion": (_Out,),
    "cudaDriverGetVersion": (_Out,),
    "cudaMemGetInfo": (_Out, _Out),
    "cudaMalloc": (_Out, _Size),
    "cudaFree": (_Pointer,),
    "cudaMallocHost": (_Out, _Size),
    "cudaFreeHost": (_Pointer,),
    "cudaMemcpyAsync": (_Pointer, _Pointer, _Size, _Int, _Pointer),
    "cudaStreamCreateWithFlags": (_Out, ctypes.c_uint),
    "cudaStreamSynchronize": (_Pointer,),
    "cudaStreamDestroy": (_Pointer,),
    "cudaEventCreateWithFlags": (_Out, ctypes.c_uint),
    "cudaEventRecord": (_Pointer, _Pointer),
    "cudaEventElapsedTime": (_Out, _Pointer, _Pointer),
    "cudaEventDestroy": (_Pointer,),
    "cudaStreamBeginCapture": (_Pointer, _Int),
    "cudaStreamEndCapture": (_Pointer, _Out),
    "cudaGraphInstantiateWithFlags": (_Out, _Pointer, ctypes.c_ulonglong),
    "cudaGraphDestroy": (_Pointer,),
    "cudaGraphLaunch": (_Pointer, _Pointer),
    "cudaGraphExecDestroy": (_Pointer,),
    "cudaGetLastError": (),
}


class CudaError(RuntimeError):
    """A call failed; the message has CUDA's own name for the reason. Callers turn it into a DeviceError."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU.

    Attributes:
        compute_capability: Such as "8.7".
        multiprocessors: Their number, which tells boards of one generation apart.
        memory_mib: In all; on a Jetson it is the board's memory, which the CPU shares.
    """

    name: str
    compute_capability: str
    multiprocessors: int
    memory_mib: float


class Cuda:
    """The calls of libcudart. Addresses, streams, events and graphs are integers."""

    def __init__(self, library: Any) -> None:
        self._library = library
        library.cudaGetErrorName.argtypes = library.cudaGetErrorString.argtypes = (_Int,)
        library.cudaGetErrorName.restype = library.cudaGetErrorString.restype = ctypes.c_char_p
        for name, arguments in _ARGUMENTS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, _Int

    def count_gpus(self) -> int:
        """GPUs that this process can use.

        Raises:
            CudaError: There is no driver, or an old one.
        """
        return self._integer("cudaGetDeviceCount")

    def gpu(self, index: int = 0) -> Gpu:
        """What a GPU is."""
        properties = ctypes.create_string_buffer(_PROPERTIES_SIZE)
        self._call("cudaGetDeviceProperties", properties, index)
        major, minor, multiprocessors = (
            self._integer("cudaDeviceGetAttribute", attribute, index)
            for attribute in (_MAJOR, _MINOR, _MULTIPROCESSORS)
        )
        return Gpu(
            name=properties.raw[:_NAME_SIZE].split(b"\0")[0].decode(errors="replace"),
            compute_capability=f"{major}.{minor}",
            multiprocessors=multiprocessors,
            memory_mib=self.memory()[1] / 2**20,
        )

    def versions(self) -> dict[str, str]:
        """`{"runtime": "12.6", "driver": "12.6"}`."""
        found = {name: self._integer(f"cuda{name.title()}GetVersion") for name in ("runtime", "driver")}
        return {name: f"{value // 1000}.{value % 1000 // 10}" for name, value in found.items()}

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate(self, size: int) -> int:
        """Address of `size` bytes on the GPU."""
        return self._made("cudaMalloc", size)

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""
        self._call("cudaFree", address)

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An array in host memory that never moves, so that copies to and from it go on by themselves.

        Whoever got it gives it back with `free_pinned`, after which it must not be touched.
        """
        wanted = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * wanted.itemsize
        memory = (ctypes.c_byte * size).from_address(self._made("cudaMallocHost", size))
        return np.frombuffer(memoryview(memory), wanted).reshape(shape)

    def free_pinned(self, array: npt.NDArray[Any]) -> None:
        """Give back what `pinned` gave."""
        self._call("cudaFreeHost", array.ctypes.data)

    def copy_in(self, device: int, host: npt.NDArray[Any], stream: int) -> None:
        """Start copying an array to the GPU."""
        self._call("cudaMemcpyAsync", device, host.ctypes.data, host.nbytes, _HOST_TO_DEVICE, stream)

    def copy_out(self, host: npt.NDArray[Any], device: int, stream: int) -> None:
        """Start copying from the GPU into an array."""
        self._call("cudaMemcpyAsync", host.ctypes.data, device, host.nbytes, _DEVICE_TO_HOST, stream)

    def create_stream(self) -> int:
        """A queue of work, apart from the default one."""
        return self._made("cudaStreamCreateWithFlags", _NON_BLOCKING)

    def wait(self, stream: int) -> None:
        """Return when all work of a stream is done."""
        self._call("cudaStreamSynchronize", stream)

    def destroy_stream(self, stream: int) -> None:
        """End a stream."""
        self._call("cudaStreamDestroy", stream)

    def create_event(self) -> int:
        """A point in a stream, with the time at which it is reached."""
        return self._made("cudaEventCreateWithFlags", 0)

    def record(self, event: int, stream: int) -> None:
        """Put the event behind the work that the stream has."""
        self._call("cudaEventRecord", event, stream)

    def milliseconds(self, start: int, end: int) -> float:
        """Between two events that were reached."""
        found = ctypes.c_float()
        self._call("cudaEventElapsedTime", ctypes.byref(found), start, end)
        return found.value

    def destroy_event(self, event: int) -> None:
        """Give an event back."""
        self._call("cudaEventDestroy", event)

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """Record what `work` puts into the stream as a graph, without running it; the graph can be launched.

        Raises:
            CudaError: The work cannot be recorded; the stream can be used as before.
        """
        self._call("cudaStreamBeginCapture", stream, _CAPTURE_THREAD_LOCAL)
        recorded = False
        try:
            work()
            recorded = True
        finally:
            # The recording must end whatever happened, or the stream stays unusable.
            graph = self._end_capture(stream, expect=recorded)
        try:
            return self._made("cudaGraphInstantiateWithFlags", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def _end_capture(self, stream: int, *, expect: bool) -> int:
        """End a recording; the graph of one that failed is dropped, and the error with it."""
        if expect:
            return self._into_last("cudaStreamEndCapture", stream)
        with contextlib.suppress(CudaError):
            self._call("cudaGraphDestroy", self._into_last("cudaStreamEndCapture", stream))
        return 0

    def launch(self, graph: int, stream: int) -> None:
        """Put a graph into the stream."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Give a graph back."""
        self._call("cudaGraphExecDestroy", graph)

    def _made(self, name: str, *arguments: Any) -> int:
        """The address that a call writes into its first argument."""
        made = ctypes.c_void_p()
        self._call(name, ctypes.byref(made), *arguments)
        return made.value or 0

    def _into_last(self, name: str, *arguments: Any) -> int:
        """The same, of a call that writes into its last argument."""
        made = ctypes.c_void_p()
        self._call(name, *arguments, ctypes.byref(made))
        return made.value or 0

    def _integer(self, name: str, *arguments: Any) -> int:
        found = ctypes.c_int()
        self._call(name, ctypes.byref(found), *arguments)
        return found.value

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status == _OK:
            return
        # Read, so that the next call does not meet the same error again.
        self._library.cudaGetLastError()
        reason, sentence = self._library.cudaGetErrorName(status), self._library.cudaGetErrorString(status)
        raise CudaError(f"{name}: {_text(reason)} ({_text(sentence)})")


@functools.cache
def load_cuda() -> Cuda:
    """CUDA of this process.

    Raises:
        DeviceError: There is no libcudart.
    """
    for name in (*NAMES, *_of_pip()):
        try:
            return Cuda(ctypes.CDLL(name))
        except (OSError, AttributeError):  # not there, or older than CUDA 12 and without one of the calls
            continue
    raise DeviceError(
        f"none of {', '.join(NAMES)} can be loaded, and no engine runs without; on a Jetson run: "
        "sudo apt install nvidia-jetpack"
    )


def gpu_trouble() -> str | None:
    """Why there is no GPU to run on, or None if there is one."""
    try:
        count = load_cuda().count_gpus()
    except (DeviceError, CudaError) as error:
        return f"there is no NVIDIA GPU that this process can use: {error}"
    return None if count else "there is no NVIDIA GPU that this process can use"


def _of_pip() -> Iterator[str]:
    """The files of NVIDIA's pip packages, which the loader does not find by name."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        yield from map(str, sorted(Path(folder).glob("*/lib/libcudart.so.*"), reverse=True))


def _text(found: bytes | None) -> str:
    return "unknown" if found is None else found.decode(errors="replace")
