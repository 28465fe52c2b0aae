"""`edgemim.runtime.backends.openvino`: precision, static shapes, and the cache of blobs."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgemim.errors import DeviceError
from edgemim.runtime.backends import openvino as module
from edgemim.runtime.bundle import Bundle
from edgemim.runtime.device import describe_device
from edgemim.runtime.isa_cap import VARIABLES

pytest.importorskip("openvino", reason="needs openvino")

BACKEND = module.OpenVinoBackend()


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The vendor's compiled models, as they are made or taken from the cache."""
    seen: list[Any] = []
    original = module._load

    def remember(*arguments: Any) -> Any:
        seen.append(original(*arguments))
        return seen[-1]

    monkeypatch.setattr(module, "_load", remember)
    return seen


def _block(weights: np.ndarray) -> bytes:
    """images [1, 3, 8, 8] as 3 tokens: LayerNorm, a linear in Q/DQ, softmax, GELU, then logits [1, K]; opset 17."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    quantized = {
        "linear": rng.integers(-127, 128, (64, 64)).astype(np.int8),
        "steps": rng.uniform(1e-4, 1e-3, 64).astype(np.float32),
        "zeros": np.zeros(64, np.int8),
        "step": np.float32(0.03),
        "zero": np.int8(0),
    }
    floats = {
        "gain": rng.normal(1, 0.1, 64).astype(np.float32),
        "bias": rng.normal(0, 0.1, 64).astype(np.float32),
        "root": np.float32(2**0.5),
        "head": weights,
        "shape": np.array([1, 3, 64]),
    }
    nodes = [
        helper.make_node("Reshape", ["images", "shape"], ["tokens"]),
        helper.make_node("LayerNormalization", ["tokens", "gain", "bias"], ["normed"], axis=-1),
        helper.make_node("QuantizeLinear", ["normed", "step", "zero"], ["normed_q"]),
        helper.make_node("DequantizeLinear", ["normed_q", "step", "zero"], ["normed_d"]),
        helper.make_node("DequantizeLinear", ["linear", "steps", "zeros"], ["linear_d"], axis=1),
        helper.make_node("MatMul", ["normed_d", "linear_d"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["mixed"]),
        helper.make_node("Softmax", ["mixed"], ["shares"], axis=-1),
        helper.make_node("Mul", ["mixed", "shares"], ["weighted"]),
        helper.make_node("Div", ["weighted", "root"], ["scaled"]),
        helper.make_node("Erf", ["scaled"], ["erf"]),
        helper.make_node("Mul", ["weighted", "erf"], ["gelu"]),
        helper.make_node("Flatten", ["gelu"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, weights.shape[1]])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (quantized | floats).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def test_the_ir_computes_bit_by_bit_what_the_onnx_file_does(real_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="needs onnx to make a model")
    bundle = real_bundle(encode=_block, evaluation=None)
    engine = BACKEND.compile(bundle, bundle.candidates[0], tmp_path, 1)
    assert engine.file.suffix == ".xml"
    direct = module._core().compile_model(str(bundle.artifact.file("fp32.onnx")), "CPU", dict(engine.options))
    session = BACKEND.open(engine)
    for image in bundle.golden.inputs:
        expected = direct([image[None]])["logits"]
        np.testing.assert_array_equal(session.run({"images": image[None]})["logits"], expected)


def test_the_model_runs_in_f32_on_one_stream_with_the_threads_given(
    real_bundle: Callable[..., Bundle], tmp_path: Path, loaded: list[Any]
) -> None:
    bundle = real_bundle(evaluation=None)
    BACKEND.compile(bundle, bundle.candidates[0], tmp_path, 1)
    (model,) = loaded
    assert model.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert "LATENCY" in str(model.get_property("PERFORMANCE_HINT"))
    assert int(model.get_property("NUM_STREAMS")) == 1
    assert int(model.get_property("INFERENCE_NUM_THREADS")) == 1


@pytest.mark.skipif(not describe_device().has_bf16, reason="this CPU has no bf16 instructions")
def test_bf16_is_what_the_candidate_says(real_bundle: Callable[..., Bundle], tmp_path: Path, loaded: list[Any]) -> None:
    bundle = real_bundle(encode=_block, evaluation=None)
    plain, bf16 = (next(c for c in bundle.candidates if c.name == name) for name in ("fp32", "bf16"))
    folders = {BACKEND.compile(bundle, candidate, tmp_path, 1).folder for candidate in (plain, bf16)}
    assert len(folders) == 2
    hints = [model.get_property("INFERENCE_PRECISION_HINT").get_type_name() for model in loaded]
    assert hints == ["f32", "bf16"]


def test_the_second_compilation_comes_from_the_cache_and_computes_the_same(
    real_bundle: Callable[..., Bundle], tmp_path: Path, loaded: list[Any]
) -> None:
    bundle = real_bundle(encode=_block, evaluation=None)
    first = BACKEND.compile(bundle, bundle.candidates[0], tmp_path, 1)
    second = BACKEND.compile(bundle, bundle.candidates[0], tmp_path, 1)
    assert (first.cached, second.cached) == (False, True)
    assert first.folder == second.folder
    assert first.compile_s == second.compile_s
    assert first.compiled_first_ms == second.compiled_first_ms
    assert (first.compiled_first_ms or 0) > 0
    images = {"images": bundle.golden.inputs[:1]}
    output = BACKEND.open(second).run(images)["logits"]
    assert [model.get_property("LOADED_FROM_CACHE") for model in loaded] == [False, True]
    fresh = BACKEND.compile(bundle, bundle.candidates[0], tmp_path / "other", 1)
    np.testing.assert_array_equal(output, BACKEND.open(fresh).run(images)["logits"])


def test_a_cap_on_the_instruction_sets_is_another_engine(
    real_bundle: Callable[..., Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = real_bundle(evaluation=None)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    plain = BACKEND.compile(bundle, bundle.candidates[0], tmp_path, 1)
    monkeypatch.setenv(VARIABLES[0], "SSE41")
    capped = BACKEND.compile(bundle, bundle.candidates[0], tmp_path, 1)
    assert not capped.cached
    assert capped.folder != plain.folder


def test_inputs_that_must_be_converted_first_compute_the_same(
    real_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    bundle = real_bundle()
    inputs, _ = next(bundle.golden_batches())
    image = inputs["images"]
    session = BACKEND.open(BACKEND.compile(bundle, bundle.candidates[0], tmp_path, 1))
    expected = session.run({"images": image})["logits"]
    frozen = image.copy()
    frozen.flags.writeable = False
    strided = np.repeat(image, 2, axis=3)[..., ::2]
    for other in (image.astype(np.float64), frozen, strided, np.asfortranarray(image)):
        assert np.array_equal(session.run({"images": other})["logits"], expected)
        # And the next run reads its own input again, not what was converted.
        assert np.array_equal(session.run({"images": -image})["logits"], session.run({"images": -other})["logits"])
    session.close()


def test_a_buffer_that_is_filled_again_is_read_again(real_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = real_bundle()
    session = BACKEND.open(BACKEND.compile(bundle, bundle.candidates[0], tmp_path, 1))
    expected = [session.run({"images": image[None].copy()})["logits"] for image in bundle.golden.inputs]
    buffer = {"images": np.empty_like(bundle.golden.inputs[:1])}
    found = []
    for image in bundle.golden.inputs:
        buffer["images"][...] = image
        found.append(session.run(buffer)["logits"])
    assert np.array_equal(found, expected)
    assert len({output.tobytes() for output in found}) == len(found)
    session.close()


def test_other_threads_are_another_engine(real_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = real_bundle(evaluation=None)
    folders = {BACKEND.compile(bundle, bundle.candidates[0], tmp_path, n).folder for n in (1, 2)}
    assert len(folders) == 2


def test_a_damaged_blob_is_compiled_again(real_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = real_bundle(evaluation=None)
    engine = BACKEND.compile(bundle, bundle.candidates[0], tmp_path, 1)
    assert engine.folder is not None
    (blob,) = engine.folder.glob("*.blob")
    data = blob.read_bytes()
    blob.write_bytes(data[: len(data) // 2])
    again = BACKEND.compile(bundle, bundle.candidates[0], tmp_path, 1)
    assert not again.cached
    (blob,) = engine.folder.glob("*.blob")
    assert len(blob.read_bytes()) > len(data) // 2
    images = {"images": bundle.golden.inputs[:1]}
    output = BACKEND.open(again).run(images)["logits"]
    np.testing.assert_allclose(output, bundle.golden.outputs[:1], atol=1e-5)


def test_dynamic_shapes_are_refused(
    real_bundle: Callable[..., Bundle], as_onnx: Callable[..., bytes], tmp_path: Path
) -> None:
    bundle = real_bundle(encode=functools.partial(as_onnx, batch="n"), evaluation=None)
    with pytest.raises(DeviceError, match="dynamic shapes, an edge engine needs static ones"):
        BACKEND.compile(bundle, bundle.candidates[0], tmp_path, 1)


_INTERRUPT_AFTER_TWO_MODELS = """
import signal, sys
from pathlib import Path
from edgemim.runtime.backends.openvino import OpenVinoBackend
from edgemim.runtime.bundle import load_bundle

bundle, backend = load_bundle(sys.argv[1]), OpenVinoBackend()
engine = backend.compile(bundle, bundle.candidates[0], Path(sys.argv[2]), 1)
first, second = backend.open(engine), backend.open(engine)
first.close()
del first
second.close()
del second
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("alive")
"""


def test_ctrl_c_after_two_models_is_python_s_own(real_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    """Two Cores with overlapping lives left a wrong signal stack behind: the next signal was a crash."""
    path = real_bundle(evaluation=None).artifact.path
    command = [sys.executable, "-c", _INTERRUPT_AFTER_TWO_MODELS, str(path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr


@pytest.mark.parametrize("threads", [1, 2])
def test_the_session_tells_what_became_of_its_settings(
    real_bundle: Callable[..., Bundle], tmp_path: Path, threads: int
) -> None:
    bundle = real_bundle(evaluation=None)
    engine = BACKEND.compile(bundle, bundle.candidates[0], tmp_path, threads)
    session = BACKEND.open(engine)
    told = session.facts()
    session.close()
    assert (told["ENABLE_CPU_PINNING"], told["SCHEDULING_CORE_TYPE"]) == (True, "ANY_CORE")
    assert (told["INFERENCE_PRECISION_HINT"], told["NUM_STREAMS"]) == ("f32", 1)
    assert 1 <= told["INFERENCE_NUM_THREADS"] <= threads
    assert {"ENABLE_CPU_PINNING", "SCHEDULING_CORE_TYPE"} <= engine.options.keys()
    assert json.loads(json.dumps(told)) == told
