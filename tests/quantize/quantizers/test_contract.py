"""Every quantizer keeps the contract of `Quantizer`, on a small attention model."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest

from edgemim.errors import OutputError
from edgemim.quantize.calibration import choose_calibration
from edgemim.quantize.qdq import check_qdq, module_of
from edgemim.quantize.quantizers import QUANTIZERS
from edgemim.quantize.quantizers._base import Quantizer


@pytest.fixture(scope="module")
def calibration(noise_images, preprocess):
    return choose_calibration(noise_images(50), preprocess, count=24)


@pytest.fixture(scope="module", params=QUANTIZERS.names())
def quantized(request, attention_artifact, calibration, tmp_path_factory):
    quantizer = QUANTIZERS.get(request.param)()
    assert isinstance(quantizer, Quantizer)
    out = tmp_path_factory.mktemp("quantized") / request.param
    return request.param, quantizer.quantize(attention_artifact, calibration, out)


def _session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_the_docstring_names_source_and_needs():
    for description in QUANTIZERS.describe_all():
        assert {"source", "needs"} <= set(description.sections)


def test_the_flavour_is_named_after_the_quantizer(quantized):
    name, artifact = quantized
    assert [flavour["name"] for flavour in artifact.content["flavours"]] == ["fp32", f"int8-{name}"]
    assert artifact.content["calibration"] == {"file": "calibration.json", "images": 24}


def test_the_graph_is_standard_int8_with_zero_points_of_zero(quantized):
    name, artifact = quantized
    model = onnx.load(artifact.file(f"int8-{name}.onnx"))
    onnx.checker.check_model(model, full_check=True)
    counts = check_qdq(model)
    assert counts == artifact.content["flavours"][1]["nodes"]
    assert set(counts["QuantizeLinear"]) == set(counts["DequantizeLinear"]) == {"int8"}
    # Four linear layers of weights at least, and their inputs.
    assert counts["DequantizeLinear"]["int8"] >= 8
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert "LayerNormalization" in {node.op_type for node in model.graph.node}


def test_every_node_names_its_module(quantized):
    name, artifact = quantized
    model = onnx.load(artifact.file(f"int8-{name}.onnx"))
    modules = {node.name: module_of(node) for node in model.graph.node}
    assert None not in modules.values()
    feeds = {node.input[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    (head,) = [node for node in model.graph.node if node.op_type == "Gemm"]
    inputs = [node for node in feeds.values() if node.output[0] in head.input]
    assert len(inputs) == 2
    assert {module_of(node) for node in inputs} == {"head"}


def test_the_outputs_stay_close_to_fp32_on_the_calibration_images(quantized, calibration):
    name, artifact = quantized
    fp32, int8 = (_session(artifact.file(file)) for file in ("fp32.onnx", f"int8-{name}.onnx"))
    cosines = []
    for batch in calibration:
        a, b = (session.run(None, {"images": batch})[0][0] for session in (fp32, int8))
        assert not np.array_equal(a, b)
        cosines.append(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
    assert min(cosines) >= 0.95
    assert artifact.content["flavours"][1]["golden"]["cosine"] >= 0.95


def test_the_same_calibration_gives_the_same_bytes(quantized, attention_artifact, calibration, tmp_path):
    name, artifact = quantized
    again = QUANTIZERS.get(name)().quantize(attention_artifact, calibration, tmp_path / "again")
    assert again.files == artifact.files


def test_the_order_of_the_images_does_not_matter(quantized, attention_artifact, calibration, tmp_path):
    name, artifact = quantized
    backwards = dataclasses.replace(calibration, indices=calibration.indices[::-1])
    again = QUANTIZERS.get(name)().quantize(attention_artifact, backwards, tmp_path / "again")
    for batch in list(calibration)[:4]:
        a, b = (_session(x.file(f"int8-{name}.onnx")).run(None, {"images": batch})[0] for x in (artifact, again))
        np.testing.assert_allclose(a, b, atol=0.05 * np.abs(a).max())


def test_an_existing_folder_is_refused_before_any_work(quantized, attention_artifact, calibration):
    name, artifact = quantized
    with pytest.raises(OutputError, match="exists"):
        QUANTIZERS.get(name)().quantize(attention_artifact, calibration, artifact.path)
