"""`edgemim.runtime.nvidia.build`: settings, timings and refusals on every version. Fakes, and the real builder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgemim.errors import DeviceError
from edgemim.runtime.nvidia.build import MIB, BuildSettings, build_engine, precision_flags, workspace_for
from edgemim.runtime.nvidia.cudart import Cuda, gpu_trouble
from edgemim.runtime.nvidia.library import TENSORRT_RTX, load_library
from edgemim.runtime.nvidia.logger import open_log
from edgemim.runtime.nvidia.parse import Network, parse_onnx
from edgemim.runtime.nvidia.session import TensorRtSession
from tests.runtime.nvidia.fake_cudart import FakeCudart
from tests.runtime.nvidia.fake_tensorrt import SUPPORTED
from tests.runtime.nvidia.models import write_linear

pytest.importorskip("onnx", reason="needs onnx to make a model")

TYPED = [version for version in SUPPORTED if version != "8.6.1"]


def parsed(folder: Path, **options) -> Network:
    library = load_library()
    return parse_onnx(library, open_log(library), write_linear(folder, **options))


def settings(precision: str = "fp32") -> BuildSettings:
    return BuildSettings(precision=precision, optimization_level=5, workspace=64 * MIB, free=300 * MIB)


@pytest.mark.parametrize("version", SUPPORTED)
def test_the_builder_is_given_memory_a_long_search_and_is_asked_for_details(
    machine: Callable, tmp_path: Path, version: str
) -> None:
    trt = machine(version).trt
    assert build_engine(parsed(tmp_path), settings(), None)
    ((_, config),) = trt.built
    assert config._pools == {trt.MemoryPoolType.WORKSPACE: 64 * MIB}
    assert config.builder_optimization_level == 5
    assert config.profiling_verbosity is trt.ProfilingVerbosity.DETAILED
    assert config._capabilities == ([trt.ComputeCapability.CURRENT] if version.startswith("rtx") else [])


@pytest.mark.parametrize("version", SUPPORTED)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_fp32_reference_is_built_without_tf32(
    machine: Callable, tmp_path: Path, version: str, precision: str
) -> None:
    trt = machine(version).trt
    build_engine(parsed(tmp_path), settings(precision), None)
    ((_, config),) = trt.built
    assert ("TF32" in config._set) is (precision != "fp32")


@pytest.mark.parametrize(
    ("precision", "qdq", "flags"), [("fp32", False, set()), ("fp16", False, {"FP16"}), ("int8", True, {"FP16", "INT8"})]
)
def test_8_6_is_told_the_precision_by_flags(
    machine: Callable, tmp_path: Path, precision: str, qdq: bool, flags: set[str]
) -> None:
    trt = machine("8.6.1").trt
    build_engine(parsed(tmp_path, qdq=qdq), settings(precision), None)
    ((_, config),) = trt.built
    assert config._set - {"TF32"} == flags


@pytest.mark.parametrize("version", TYPED)
def test_from_10_on_no_flag_says_a_precision(machine: Callable, tmp_path: Path, version: str) -> None:
    trt = machine(version).trt
    build_engine(parsed(tmp_path, qdq=True, opset=20), settings("int8"), None)
    ((_, config),) = trt.built
    assert config._set == {"TF32"}


def test_int8_without_qdq_is_refused_where_flags_would_guess_it(machine: Callable, tmp_path: Path) -> None:
    machine("8.6.1")
    with pytest.raises(DeviceError, match=r"model\.onnx: it is to be int8, and no Q/DQ in it says where"):
        build_engine(parsed(tmp_path), settings("int8"), None)


def test_a_precision_without_a_flag_is_refused(machine: Callable) -> None:
    machine("8.6.1")
    with pytest.raises(DeviceError, match=r"TensorRT 8\.6\.1 has no flag for bf16"):
        precision_flags(load_library(), "bf16")


@pytest.mark.parametrize("version", SUPPORTED)
def test_a_refusal_shows_the_errors_of_the_log(machine: Callable, tmp_path: Path, version: str) -> None:
    trt = machine(version).trt
    trt.behaviour.build = "Error Code 10: Could not find any implementation for node\n{ForeignNode[head]}"
    with pytest.raises(DeviceError) as caught:
        build_engine(parsed(tmp_path), settings(), None)
    assert str(caught.value) == (
        f"{trt.__name__} cannot compile model.onnx: Error Code 10: Could not find any implementation for node "
        "{ForeignNode[head]}"
    )


def test_the_parser_s_errors_are_not_blamed_on_the_builder(machine: Callable, tmp_path: Path) -> None:
    trt = machine("10.3.0").trt
    network = parsed(tmp_path)
    network.log.add("ERROR", "of something else")
    trt.behaviour.build = "no kernel"
    with pytest.raises(DeviceError, match=r"model\.onnx: no kernel$"):
        build_engine(network, settings(), None)


@pytest.mark.parametrize(
    "said",
    [
        "Requested amount of GPU memory (1073741824 bytes) could not be allocated: out of memory",
        "Error Code 2: OutOfMemory (Requested size was 67108864 bytes.)",
        "[virtualMemoryBuffer.cpp] Cuda Runtime (cudaErrorMemoryAllocation)",
        "std::bad_alloc",
        "Tactic Device request: 4096MB Available: 1021MB. Device memory is insufficient to use tactic; "
        "failed to allocate",
    ],
)
def test_when_memory_runs_out_it_says_what_to_do(machine: Callable, tmp_path: Path, said: str) -> None:
    trt = machine("10.3.0").trt
    trt.behaviour.build = said
    with pytest.raises(DeviceError, match=r"the memory ran out \(300 MiB were free\): close what .*--candidates; it"):
        build_engine(parsed(tmp_path), settings(), None)


@pytest.mark.parametrize("error", [RuntimeError("internal"), MemoryError("bad allocation")])
def test_an_exception_of_the_library_is_a_refusal(machine: Callable, tmp_path: Path, error: Exception) -> None:
    machine("10.3.0").trt.behaviour.crash = error
    with pytest.raises(DeviceError, match=rf"cannot compile model\.onnx: .*{error}"):
        build_engine(parsed(tmp_path), settings(), None)


@pytest.mark.parametrize("version", [v for v in SUPPORTED if not v.startswith("rtx")])
def test_timings_are_kept_and_given_to_the_next_build(machine: Callable, tmp_path: Path, version: str) -> None:
    trt = machine(version).trt
    file = tmp_path / "timings/board.bin"
    build_engine(parsed(tmp_path), settings(), file)
    first = file.read_bytes()
    assert first.startswith(f"timings of {version}".encode())
    build_engine(parsed(tmp_path), settings(), file)
    assert file.read_bytes() != first
    assert trt.built[1][1]._cache is not None


@pytest.mark.parametrize("left", [b"timings of another version", b"\0\1\2"])
def test_timings_of_another_version_are_measured_anew(machine: Callable, tmp_path: Path, left: bytes) -> None:
    machine("10.3.0")
    file = tmp_path / "board.bin"
    file.write_bytes(left)
    build_engine(parsed(tmp_path), settings(), file)
    assert file.read_bytes().startswith(b"timings of 10.3.0")


def test_rtx_times_nothing(machine: Callable, tmp_path: Path) -> None:
    machine("rtx-1.7")
    build_engine(parsed(tmp_path), settings(), tmp_path / "board.bin")
    assert not (tmp_path / "board.bin").exists()


@pytest.mark.parametrize(("free", "workspace"), [(400 * MIB, 100 * MIB), (4096 * MIB, 1024 * MIB), (1 << 40, 1 << 30)])
def test_a_quarter_of_what_is_free_is_scratch_at_most_1_gib(free: int, workspace: int) -> None:
    assert workspace_for(free) == workspace


class _For86:
    """The real package, where "the GPU of this machine" is an SM86 that need not be here."""

    def __init__(self, module) -> None:
        self._module = module
        self.ComputeCapability = SimpleNamespace(CURRENT=module.ComputeCapability.SM86)

    def __getattr__(self, name: str):
        return getattr(self._module, name)


@pytest.mark.tensorrt
@pytest.mark.parametrize(("precision", "qdq", "opset"), [("fp32", False, 17), ("fp32", False, 20), ("int8", True, 20)])
def test_the_real_builder_builds_with_these_settings(tmp_path: Path, precision: str, qdq: bool, opset: int) -> None:
    pytest.importorskip(TENSORRT_RTX, exc_type=ImportError)
    real = load_library(TENSORRT_RTX)
    library, log = replace(real, module=_For86(real.module)), open_log(real)
    network = parse_onnx(library, log, write_linear(tmp_path, qdq=qdq, opset=opset))
    plan = build_engine(network, settings(precision), None)
    assert len(plan) > 1000
    # Without its GPU the plan is not loaded, and what was taken by then is given back.
    gpu = FakeCudart()
    with pytest.raises(DeviceError, match=r"tensorrt_rtx cannot load the engine: TensorRT-RTX \S+ does not take it"):
        TensorRtSession(real, log, plan, Cuda(gpu))
    assert gpu.live == {}


@pytest.mark.tensorrt
def test_the_real_builder_takes_the_settings_and_wants_a_gpu(tmp_path: Path) -> None:
    """With the GPU of this machine it would build; without one it refuses, and says so."""
    pytest.importorskip(TENSORRT_RTX, exc_type=ImportError)
    if gpu_trouble() is None:
        pytest.skip("there is a GPU here")
    library = load_library(TENSORRT_RTX)
    network = parse_onnx(library, open_log(library), write_linear(tmp_path))
    with pytest.raises(DeviceError, match=r"tensorrt_rtx cannot compile model\.onnx: (?!no reason)."):
        build_engine(network, settings(), tmp_path / "board.bin")
