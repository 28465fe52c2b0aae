"""`edgemim.runtime.nvidia.session`: buffers, graph, times and errors of a loaded engine, on fakes of every version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgemim.errors import DeviceError
from edgemim.runtime.nvidia.build import MIB, BuildSettings, build_engine
from edgemim.runtime.nvidia.library import load_library
from edgemim.runtime.nvidia.logger import open_log
from edgemim.runtime.nvidia.parse import parse_onnx
from edgemim.runtime.nvidia.session import TensorRtSession
from tests.runtime.nvidia.fake_cudart import EXECUTE_MS, OUT_OF_MEMORY
from tests.runtime.nvidia.fake_tensorrt import SUPPORTED
from tests.runtime.nvidia.models import weights, write_linear

pytest.importorskip("onnx", reason="needs onnx to make a model")


@pytest.fixture
def load(machine: Callable, tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """Build the linear model on a version and load it: the session, its library, and the machine."""

    def make(version: str = "10.3.0") -> SimpleNamespace:
        there = machine(version)
        library = load_library()
        log = open_log(library)
        network = parse_onnx(library, log, write_linear(tmp_path))
        plan = build_engine(
            network, BuildSettings(precision="fp32", optimization_level=3, workspace=MIB, free=MIB), None
        )

        def again(plan: bytes = plan) -> TensorRtSession:
            return TensorRtSession(library, log, plan, there.cuda)

        return SimpleNamespace(session=again(), again=again, machine=there, library=library)

    return make


def images(seed: int = 0) -> dict[str, np.ndarray]:
    return {"images": np.random.default_rng(seed).normal(size=(1, 3, 8, 8)).astype(np.float32)}


def expected(inputs: dict[str, np.ndarray]) -> np.ndarray:
    return inputs["images"].reshape(1, -1) @ weights()


@pytest.mark.parametrize("version", SUPPORTED)
def test_every_run_gives_the_outputs_of_its_inputs_with_the_graph_too(load, version: str) -> None:
    made = load(version)
    kept = []
    for seed in range(5):
        outputs = made.session.run(images(seed))
        assert list(outputs) == ["logits"]
        np.testing.assert_allclose(outputs["logits"], expected(images(seed)), atol=1e-5)
        kept.append(outputs["logits"])
    # The arrays are the caller's: later runs and closing did not touch them.
    made.session.close()
    for seed, array in enumerate(kept):
        np.testing.assert_allclose(array, expected(images(seed)), atol=1e-5)
    assert made.session.facts()["no_cuda_graph"] is None


@pytest.mark.parametrize("version", SUPPORTED)
def test_closing_gives_back_all_memory(load, version: str) -> None:
    made = load(version)
    for _ in range(4):
        made.session.run(images())
    assert made.machine.gpu.live
    made.session.close()
    made.session.close()
    assert made.machine.gpu.live == {}
    with pytest.raises(DeviceError, match="cannot run the model: the session is closed"):
        made.session.run(images())


def test_the_third_run_is_a_graph(load) -> None:
    made = load()
    for run in range(1, 5):
        made.session.run(images())
        assert made.session.facts()["cuda_graph"] is (run > 2)
    assert made.machine.gpu.calls.count("cudaGraphLaunch") == 2
    assert made.machine.gpu.calls.count("cudaStreamBeginCapture") == 1
    made.session.close()


@pytest.mark.parametrize("how", ["the library refuses", "CUDA refuses"])
def test_without_a_graph_it_runs_as_before_and_says_why(load, how: str) -> None:
    made = load()
    if how == "the library refuses":
        made.machine.trt.behaviour.capture = False
    else:
        made.machine.gpu.failures["cudaGraphInstantiateWithFlags"] = OUT_OF_MEMORY
    for seed in range(5):
        np.testing.assert_allclose(made.session.run(images(seed))["logits"], expected(images(seed)), atol=1e-5)
    facts = made.session.facts()
    assert facts["cuda_graph"] is False
    assert ("cannot be captured" if how == "the library refuses" else "cudaErrorMemoryAlloc") in facts["no_cuda_graph"]
    assert made.machine.gpu.calls.count("cudaStreamBeginCapture") == 1
    made.session.close()
    assert made.machine.gpu.live == {}


def test_time_on_the_device_is_the_computing_alone(load) -> None:
    made = load()
    assert made.session.device_ms is None
    for _ in range(4):
        made.session.run(images())
        assert made.session.device_ms == EXECUTE_MS
    made.session.close()


@pytest.mark.parametrize("version", SUPPORTED)
def test_the_facts_name_the_layers(load, version: str) -> None:
    made = load(version)
    assert made.session.facts()["layers"] == {"layers": 2, "int8": 0, "attentions": 0, "moves": 0}
    made.session.close()


def test_the_facts_name_library_and_gpu(load) -> None:
    made = load()
    facts = made.session.facts()
    assert (facts["library"], facts["gpu"]) == ("TensorRT 10.3.0", "Orin")
    assert (facts["compute_capability"], facts["multiprocessors"]) == ("8.7", 8)
    assert facts["cuda"] == {"runtime": "12.6", "driver": "12.6"}
    made.session.close()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"pixels": np.zeros((1, 3, 8, 8), np.float32)}, r"takes the inputs \['images'\], got \['pixels'\]"),
        ({"images": np.zeros((1, 3, 9, 9), np.float32)}, r"is float32 \[1, 3, 8, 8\], got float32 \[1, 3, 9, 9\]"),
        ({"images": np.zeros((3, 8, 8), np.float32)}, r"got float32 \[3, 8, 8\]"),
        ({"images": np.zeros((1, 3, 8, 8), np.float64)}, r"got float64 \[1, 3, 8, 8\]"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(load, inputs, message: str) -> None:
    made = load()
    with pytest.raises(DeviceError, match=rf"tensorrt cannot run the model: .*{message}"):
        made.session.run(inputs)
    made.session.close()


def test_two_sessions_do_not_disturb_each_other(load) -> None:
    made = load()
    other = made.again()
    before = made.session.run(images())["logits"]
    other.run(images(1))
    other.close()
    np.testing.assert_array_equal(made.session.run(images())["logits"], before)
    made.session.close()


def test_an_engine_of_another_version_or_gpu_is_refused_and_leaves_nothing(load) -> None:
    made = load()
    made.session.close()
    with pytest.raises(
        DeviceError, match=r"cannot load the engine: TensorRT 10\.3\.0 does not take it; check with --rebuild; it"
    ):
        made.again(b'{"version": "10.7.0", "gpu": "Orin"}\n')
    assert made.machine.gpu.live == {}


def test_memory_that_does_not_suffice_is_told_by_name_and_given_back(load) -> None:
    made = load()
    made.session.close()
    made.machine.gpu.failures["cudaMalloc"] = OUT_OF_MEMORY
    with pytest.raises(DeviceError, match="cannot load the engine: cudaMalloc: cudaErrorMemoryAllocation"):
        made.again()
    assert made.machine.gpu.live == {}


def test_an_error_while_running_names_what_failed(load) -> None:
    made = load()
    made.machine.gpu.failures["cudaStreamSynchronize"] = OUT_OF_MEMORY
    with pytest.raises(DeviceError, match="tensorrt cannot run the model: cudaStreamSynchronize: cudaError"):
        made.session.run(images())
    made.session.close()
