"""`edgemim.runtime.backends.onnxruntime`: what only ONNX Runtime does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgemim.errors import DeviceError
from edgemim.runtime.backends import onnxruntime as module
from edgemim.runtime.bundle import Bundle

pytest.importorskip("onnxruntime", reason="needs onnxruntime")


def test_the_engine_is_the_bundles_own_file(real_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = real_bundle(evaluation=None)
    engine = module.OnnxRuntimeBackend().compile(bundle, bundle.candidates[0], tmp_path / "cache", 1)
    assert engine.file == bundle.artifact.file("fp32.onnx")
    assert (engine.folder, engine.cached) == (None, False)
    assert not (tmp_path / "cache").exists()


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_a_provider_that_was_replaced_in_silence_is_an_error(
    real_bundle: Callable[..., Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has the provider that should be missing")
    monkeypatch.setattr(module, "_PROVIDER", "CUDAExecutionProvider")
    bundle = real_bundle(evaluation=None)
    with pytest.raises(DeviceError, match=r"chose the providers \['CPUExecutionProvider'\] instead of CUDA"):
        module.OnnxRuntimeBackend().compile(bundle, bundle.candidates[0], tmp_path, 1)


# Depth of the products: enough for one pair to leave 16 bits, too little for the sum to leave 32.
_DEPTH = 64


def _linear(weights: np.ndarray) -> bytes:
    """images [1, 3, 8, 8] as 3 tokens of 64: a linear in symmetric Q/DQ with a float bias, as a ViT has; opset 17.

    Every weight is 127 and every step 1, so that the result is a sum of integers.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    classes = weights.shape[1]
    tensors = {
        "shape": np.array([1, 3, _DEPTH]),
        "step": np.float32(1),
        "zero": np.int8(0),
        "weights": np.full((_DEPTH, classes), 127, np.int8),
        "steps": np.ones(classes, np.float32),
        "zeros": np.zeros(classes, np.int8),
        "bias": np.arange(classes, dtype=np.float32),
    }
    nodes = [
        helper.make_node("Reshape", ["images", "shape"], ["tokens_in"]),
        helper.make_node("QuantizeLinear", ["tokens_in", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["dq"]),
        helper.make_node("DequantizeLinear", ["weights", "steps", "zeros"], ["weights_dq"], axis=1),
        helper.make_node("MatMul", ["dq", "weights_dq"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["tokens_out"]),
        helper.make_node("ReduceMax", ["tokens_out"], ["logits"], axes=[1], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, classes])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture
def int8_engine(real_bundle: Callable[..., Bundle], tmp_path: Path):
    pytest.importorskip("onnx", reason="needs onnx to make a model")
    bundle = real_bundle(encode=_linear, evaluation=None)
    candidate = next(c for c in bundle.candidates if c.name == "int8-nncf")
    return module.OnnxRuntimeBackend().compile(bundle, candidate, tmp_path, 1)


def test_int8_products_are_exact_on_every_cpu(int8_engine) -> None:
    """Without VNNI, 255 x 127 twice does not fit the 16 bits that the fast kernel adds in."""
    session = module.OnnxRuntimeBackend().open(int8_engine)
    found = session.run({"images": np.full((1, 3, 8, 8), 127, np.float32)})["logits"]
    np.testing.assert_array_equal(found[0], 127 * 127 * _DEPTH + np.arange(5, dtype=np.float32))


def test_a_linear_in_symmetric_qdq_becomes_an_integer_product(int8_engine, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    settings.log_severity_level = 3
    for name in set(int8_engine.options) - {"provider", "intra_op_num_threads", "inter_op_num_threads"}:
        settings.add_session_config_entry(name, int8_engine.options[name])
    onnxruntime.InferenceSession(str(int8_engine.file), settings, providers=["CPUExecutionProvider"])
    ops = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert "MatMulIntegerToFloat" in ops
    assert not {"DequantizeLinear", "MatMul", "Gemm"} & set(ops)


def test_fp32_runs_with_the_vendors_settings(real_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = real_bundle(evaluation=None)
    engine = module.OnnxRuntimeBackend().compile(bundle, bundle.candidates[0], tmp_path, 1)
    assert set(engine.options) == {"provider", "intra_op_num_threads", "inter_op_num_threads"}


@pytest.mark.parametrize(
    ("isa", "slow_and_exact"),
    [
        (("avx2",), True),
        (("avx2", "avx512f"), True),
        (("avx2", "avx_vnni"), False),
        (("avx2", "avx512f", "avx512_vnni", "amx_int8"), False),
        (("asimd", "asimddp"), False),
    ],
)
def test_only_a_cpu_without_vnni_pays_for_exact_products(isa: tuple[str, ...], slow_and_exact: bool) -> None:
    assert ("session.x64quantprecision" in module.int8_settings(isa)) is slow_and_exact


def test_a_package_that_cannot_be_loaded_is_the_devices_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "onnxruntime"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('libx.so: failed to map segment from shared object')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    with pytest.raises(DeviceError, match=r"onnxruntime cannot be imported: libx\.so: failed to map segment"):
        module._load(tmp_path / "fp32.onnx", {})
