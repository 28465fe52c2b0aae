"""`edgemim.runtime.nvidia.cudart`: the wrapper over a fake libcudart, over the real one, and on a real GPU (`gpu`)."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import pytest

from edgemim.errors import DeviceError
from edgemim.runtime.nvidia import cudart
from edgemim.runtime.nvidia.cudart import Cuda, CudaError, load_cuda
from tests.runtime.nvidia.fake_cudart import COPY_MS, EXECUTE_MS, OUT_OF_MEMORY, FakeCudart


@pytest.fixture
def fake() -> FakeCudart:
    return FakeCudart()


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.gpu)])
def cuda(request: pytest.FixtureRequest) -> Iterator[Cuda]:
    if request.param == "real":
        yield load_cuda()
        return
    library = FakeCudart()
    yield Cuda(library)
    assert library.live == {}, "a test gives back what it takes"


def test_an_array_comes_back_as_it_went(cuda: Cuda) -> None:
    stream = cuda.create_stream()
    there, back = (cuda.pinned((2, 3, 5), "float32") for _ in range(2))
    address = cuda.allocate(there.nbytes)
    there[...] = np.random.default_rng(0).normal(size=there.shape)
    back[...] = 0
    cuda.copy_in(address, there, stream)
    cuda.copy_out(back, address, stream)
    cuda.wait(stream)
    np.testing.assert_array_equal(back, there)
    cuda.free(address)
    for array in (there, back):
        cuda.free_pinned(array)
    cuda.destroy_stream(stream)


@pytest.mark.parametrize("dtype", ["float16", "uint8", "int64"])
def test_pinned_memory_has_the_type_and_shape_asked_for(cuda: Cuda, dtype: str) -> None:
    array = cuda.pinned((4, 1), dtype)
    assert (array.shape, array.dtype, array.nbytes) == ((4, 1), np.dtype(dtype), 4 * np.dtype(dtype).itemsize)
    assert array.flags.writeable
    cuda.free_pinned(array)


def test_a_graph_does_again_what_was_recorded(cuda: Cuda) -> None:
    stream = cuda.create_stream()
    host, back = cuda.pinned((1000,), "float32"), cuda.pinned((1000,), "float32")
    address = cuda.allocate(host.nbytes)
    host[...], back[...] = 1, 0

    def work() -> None:
        cuda.copy_in(address, host, stream)
        cuda.copy_out(back, address, stream)

    graph = cuda.capture(stream, work)
    cuda.wait(stream)
    assert not back.any(), "recording does not run"
    for value in (2, 3):
        host[...] = value
        cuda.launch(graph, stream)
        cuda.wait(stream)
        assert (back == value).all()
    cuda.destroy_graph(graph)
    cuda.free(address)
    for array in (host, back):
        cuda.free_pinned(array)
    cuda.destroy_stream(stream)


def test_after_a_recording_that_failed_the_stream_works(cuda: Cuda) -> None:
    stream = cuda.create_stream()

    def work() -> None:
        raise RuntimeError("cannot be recorded")

    with pytest.raises(RuntimeError, match="cannot be recorded"):
        cuda.capture(stream, work)
    cuda.wait(stream)
    cuda.destroy_stream(stream)


def test_events_tell_the_time_between_them(cuda: Cuda) -> None:
    stream, start, end = cuda.create_stream(), cuda.create_event(), cuda.create_event()
    host = cuda.pinned((1 << 20,), "uint8")
    address = cuda.allocate(host.nbytes)
    cuda.record(start, stream)
    cuda.copy_in(address, host, stream)
    cuda.record(end, stream)
    cuda.wait(stream)
    assert 0 < cuda.milliseconds(start, end) < 1000
    cuda.free(address)
    cuda.free_pinned(host)
    for event in (start, end):
        cuda.destroy_event(event)
    cuda.destroy_stream(stream)


def test_the_gpu_is_described(cuda: Cuda) -> None:
    gpu = cuda.gpu()
    assert gpu.name.isprintable()
    assert gpu.name
    major, minor = map(int, gpu.compute_capability.split("."))
    assert 5 <= major < 20
    assert 0 <= minor < 10
    assert gpu.multiprocessors > 0
    assert gpu.memory_mib > 500
    free, total = cuda.memory()
    assert 0 < free <= total
    assert set(cuda.versions()) == {"runtime", "driver"}


def test_too_much_memory_is_refused_by_cuda_s_own_name(cuda: Cuda, request: pytest.FixtureRequest) -> None:
    if "fake" in request.node.name:
        cuda._library.failures["cudaMalloc"] = OUT_OF_MEMORY
    with pytest.raises(CudaError, match=r"cudaMalloc: cudaErrorMemoryAllocation \(out of memory\)"):
        cuda.allocate(1 << 50)
    # The error was read: the next call does not meet it again.
    assert cuda.count_gpus() > 0


def test_the_fake_gpu_is_an_orin(fake: FakeCudart) -> None:
    gpu = Cuda(fake).gpu()
    assert (gpu.name, gpu.compute_capability, gpu.multiprocessors) == ("Orin", "8.7", 8)
    assert Cuda(fake).versions() == {"runtime": "12.6", "driver": "12.6"}


def test_the_fake_gpu_does_nothing_before_it_is_waited_for(fake: FakeCudart) -> None:
    cuda = Cuda(fake)
    stream, start, end = cuda.create_stream(), cuda.create_event(), cuda.create_event()
    cuda.record(start, stream)
    done: list[str] = []
    fake.execute(stream, lambda: done.append("run"))
    cuda.record(end, stream)
    assert done == []
    cuda.wait(stream)
    assert done == ["run"]
    assert cuda.milliseconds(start, end) == EXECUTE_MS != COPY_MS


@pytest.mark.parametrize(("gpus", "reason"), [(1, None), (0, "no NVIDIA GPU that this process can use")])
def test_where_there_is_no_gpu_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, gpus: int, reason: str | None
) -> None:
    monkeypatch.setattr(cudart, "load_cuda", lambda: Cuda(FakeCudart(gpus=gpus)))
    found = cudart.gpu_trouble()
    assert found is None if reason is None else reason in (found or "")


def test_where_there_is_no_libcudart_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", nothing)
    monkeypatch.setattr(cudart, "load_cuda", cudart.load_cuda.__wrapped__)
    with pytest.raises(DeviceError, match=r"none of libcudart\.so, .* can be loaded.*nvidia-jetpack"):
        cudart.load_cuda()
    assert "can be loaded" in (cudart.gpu_trouble() or "")


@pytest.fixture(scope="module")
def real() -> Cuda:
    try:
        return load_cuda()
    except DeviceError as error:
        pytest.skip(str(error))


def test_the_real_libcudart_has_every_call_that_is_used(real: Cuda) -> None:
    for name, arguments in cudart._ARGUMENTS.items():
        assert getattr(real._library, name).argtypes == arguments


def test_the_real_libcudart_tells_its_version_and_names_its_errors(real: Cuda) -> None:
    assert int(real.versions()["runtime"].split(".")[0]) >= 12
    with pytest.raises(CudaError, match=r"cudaFree: cuda\w+ \(.+\)"):
        real.free(1)


def test_without_a_gpu_the_real_libcudart_says_so(real: Cuda) -> None:
    trouble = cudart.gpu_trouble()
    if trouble is None:
        assert real.count_gpus() > 0
    else:
        assert "no NVIDIA GPU that this process can use" in trouble
        with pytest.raises(CudaError, match=r"cuda\w+: cudaError\w+ \("):
            real.allocate(1)
