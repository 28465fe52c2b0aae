"""Every file in `edgemim.runtime.backends`, against the contract of a backend.

TensorRT needs a GPU: where there is none, fakes of two of its versions stand in (tests/runtime/nvidia).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgemim.errors import DeviceError, MissingDependencyError
from edgemim.runtime.backends import BACKENDS
from edgemim.runtime.backends._base import Backend, Session
from edgemim.runtime.bundle import Bundle
from edgemim.runtime.check import check_bundle
from tests.runtime.nvidia.machine import fake_machine

_FAKES = {f"fake tensorrt {version}": version for version in ("10.3.0", "11.1.0")}


@pytest.fixture(params=[*BACKENDS.names(), *_FAKES])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    if request.param in _FAKES:
        pytest.importorskip("onnx", reason="the fake needs onnx")
        fake_machine(monkeypatch, _FAKES[request.param], SimpleNamespace())
    made: Backend = BACKENDS.get("tensorrt" if request.param in _FAKES else request.param)()
    reason = made.available()
    if reason is not None:
        pytest.skip(reason)
    return made


@pytest.fixture
def options(backend: Backend) -> dict[str, Any]:
    """Of a bundle whose candidates the backend can run: TensorRT's INT8 carries its types, in opset 20."""

    def newer(content: dict[str, Any]) -> None:
        content["flavours"][1]["opset"] = 20

    return {"target": "jetson", "change": newer} if backend.name == "tensorrt" else {}


@pytest.fixture
def opened(backend: Backend, real_bundle: Callable[..., Bundle], options: dict[str, Any], tmp_path: Path):
    sessions = []

    def start(name: str = "fp32", threads: int = 1) -> tuple[Bundle, Session]:
        bundle = real_bundle(evaluation=None, name=f"bundle{len(sessions)}", **options)
        candidate = next(c for c in bundle.candidates if c.name == name)
        engine = backend.compile(bundle, candidate, tmp_path / "cache", threads)
        sessions.append(backend.open(engine))
        return bundle, sessions[-1]

    yield start
    for session in sessions:
        session.close()


@pytest.mark.parametrize("name", BACKENDS.names())
def test_a_backend_bears_its_files_name_and_names_a_known_extra(name: str) -> None:
    backend = BACKENDS.get(name)()
    assert isinstance(backend, Backend)
    assert backend.name == name
    assert f"edgemim[{backend.extra}]" in BACKENDS.describe(name).sections["needs"]
    assert backend.distributions
    assert backend.processor in ("CPU", "GPU")


@pytest.mark.parametrize("name", BACKENDS.names())
def test_a_missing_vendor_package_names_the_extra(
    name: str, world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    backend = BACKENDS.get(name)()
    for module in (backend.module, *backend.alternatives):
        monkeypatch.setitem(sys.modules, module, None)
    assert f"edgemim[{backend.extra}]" in (backend.available() or "")
    from edgemim.runtime.bundle import load_bundle

    bundle = load_bundle(world.bundle(evaluation=None))
    with pytest.raises(MissingDependencyError, match=rf"pip install 'edgemim\[{backend.extra}\]'"):
        backend.compile(bundle, bundle.candidates[0], tmp_path, 1)


def test_an_installed_vendor_package_has_a_version(backend: Backend) -> None:
    assert backend.available() is None
    assert backend.version()[0].isdigit()


@pytest.mark.parametrize("name", ["fp32", "int8-nncf"])
def test_outputs_are_those_of_numpy(opened, world: SimpleNamespace, name: str) -> None:
    bundle, session = opened(name)
    outputs = session.run({"images": bundle.golden.inputs[:1]})
    assert list(outputs) == ["logits"]
    assert outputs["logits"].dtype == np.float32
    expected = bundle.golden.inputs[:1].reshape(1, -1) @ world.weights[name]
    # 192 products summed in another order.
    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-5)


def test_outputs_belong_to_the_caller(opened) -> None:
    bundle, session = opened()
    first = session.run({"images": bundle.golden.inputs[:1]})["logits"]
    kept = first.copy()
    assert first.flags.owndata
    assert first.flags.writeable
    session.run({"images": bundle.golden.inputs[1:2] + 1})
    session.close()
    np.testing.assert_array_equal(first, kept)


def test_inputs_are_left_as_they_were(opened) -> None:
    bundle, session = opened()
    images = bundle.golden.inputs[:1].copy()
    session.run({"images": images})
    np.testing.assert_array_equal(images, bundle.golden.inputs[:1])


def test_two_sessions_do_not_disturb_each_other(opened) -> None:
    bundle, one = opened("fp32")
    _, other = opened("int8-nncf")
    images = {"images": bundle.golden.inputs[:1]}
    before = one.run(images)["logits"]
    other.run(images)
    other.close()
    np.testing.assert_array_equal(one.run(images)["logits"], before)


@pytest.mark.parametrize(
    "inputs",
    [
        {"pixels": np.zeros((1, 3, 8, 8), np.float32)},
        {"images": np.zeros((1, 3, 9, 9), np.float32)},
        {"images": np.zeros((3, 8, 8), np.float32)},
    ],
    ids=["another name", "another size", "no batch"],
)
def test_inputs_that_do_not_fit_are_an_error_of_the_device(opened, backend: Backend, inputs) -> None:
    _, session = opened()
    with pytest.raises(DeviceError, match=f"{backend.name} cannot run the model"):
        session.run(inputs)


def test_a_file_that_is_no_model_is_an_error_of_the_device(
    backend: Backend, real_bundle: Callable[..., Bundle], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = real_bundle(encode=lambda weights: b"no model " * 20, evaluation=None)
    with pytest.raises(DeviceError, match=rf"{backend.name} cannot (load|compile) fp32\.onnx") as caught:
        backend.compile(bundle, bundle.candidates[0], tmp_path / "cache", 1)
    assert "\n" not in str(caught.value)


def test_nothing_is_printed(opened, capfd: pytest.CaptureFixture[str]) -> None:
    bundle, session = opened()
    session.run({"images": bundle.golden.inputs[:1]})
    assert capfd.readouterr() == ("", "")


def test_the_number_of_threads_is_in_the_options(
    backend: Backend, real_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    if backend.processor != "CPU":
        pytest.skip("threads of the CPU have no part in it")
    bundle = real_bundle(evaluation=None)
    engines = [backend.compile(bundle, bundle.candidates[0], tmp_path / "cache", n) for n in (1, 2)]
    assert [sorted(set(e.options.values()) & {1, 2}) for e in engines][1].count(2) == 1
    assert engines[0].options != engines[1].options


def test_a_candidates_options_go_over_the_backends_own(
    backend: Backend, real_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    bundle = real_bundle(evaluation=None)
    plain = backend.compile(bundle, bundle.candidates[0], tmp_path / "cache", 1)
    # A number that every backend has under a name of its own: of threads, or how long the builder searches.
    names = ("INFERENCE_NUM_THREADS", "intra_op_num_threads", "optimization_level")
    (name,) = [key for key in names if key in plain.options]
    candidate = replace(bundle.candidates[0], options={name: 2})
    engine = backend.compile(bundle, candidate, tmp_path / "cache", 1)
    assert dict(engine.options) == {**plain.options, name: 2}
    backend.open(engine).close()


@pytest.mark.usefixtures("quick")
def test_a_whole_check_passes_on_this_machine(
    backend: Backend,
    world: SimpleNamespace,
    as_onnx: Callable[..., bytes],
    options: dict[str, Any],
    request: pytest.FixtureRequest,
) -> None:
    probed = "fake" not in request.node.name  # a fake is not there in another process
    gates = {"top1.max_drop": 0.2, "cosine.min": 0.99, "p99_ms": 10_000}
    path = world.bundle(encode=as_onnx, gates=gates, **options)
    report = check_bundle(
        path,
        world.tmp / "report",
        backends=[backend.name],
        threads=1,
        runs=662,
        seconds=0,
        cache=world.tmp / "cache",
        probe=probed,
    )
    assert report["passed"]
    assert report["chosen_backend"] == backend.name
    timed = [row for row in report["candidates"] if not row["reference_only"]]
    assert [row["name"] for row in timed if "bf16" not in row["name"]] == ["fp32", "int8-nncf"]
    for row in timed:
        assert row["latency"]["p99_ms"] >= row["latency"]["p90_ms"] >= row["latency"]["p50_ms"] > 0
        assert [gate["passed"] for gate in row["gates"]] == [True, True, True]
        assert not probed or row["memory"]["peak_mb"] > row["memory"]["base_mb"] > 0
    assert timed[0]["accuracy"]["top1"] == 1.0
    assert timed[0]["golden"]["max_abs"] < 1e-5
