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
from edgemim.runtime.targets import TARGETS

# It has no uint8: what holds here holds everywhere.
JETSON = TARGETS.get("jetson")


@pytest.fixture(scope="module")
def calibration(noise_images, preprocess):
    return choose_calibration(noise_images(50), preprocess, count=24)


@pytest.fixture(scope="module", params=QUANTIZERS.names())
def quantized(request, attention_artifact, calibration, tmp_path_factory):
    quantizer = QUANTIZERS.get(request.param)()
    assert isinstance(quantizer, Quantizer)
    out = tmp_path_factory.mktemp("quantized") / request.param
    return request.param, quantizer.quantize(attention_artifact, calibration, out, target=JETSON)


def _session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_the_docstring_names_source_and_needs():
    for description in QUANTIZERS.describe_all():
        assert {"source", "needs"} <= set(description.sections)


def _int8(artifact):
    """The INT8 flavours' entries in the manifest."""
    return [flavour for flavour in artifact.content["flavours"] if flavour["precision"] == "int8"]


def test_the_flavours_stand_beside_fp32_and_name_their_quantizer(quantized):
    name, artifact = quantized
    assert artifact.content["flavours"][0]["name"] == "fp32"
    found = _int8(artifact)
    assert found
    for flavour in found:
        assert flavour["name"].startswith("int8-")
        assert (flavour["quantizer"], flavour["base"]) == (name, "fp32")
    assert artifact.content["calibration"] == {"file": "calibration.json", "images": 24, "synthetic": False}


def test_the_graph_is_standard_int8_with_zero_points_of_zero(quantized):
    _, artifact = quantized
    for flavour in _int8(artifact):
        model = onnx.load(artifact.file(flavour["file"]))
        onnx.checker.check_model(model, full_check=True)
        counts = check_qdq(model)
        assert counts == flavour["nodes"]
        assert set(counts["QuantizeLinear"]) == set(counts["DequantizeLinear"]) == {"int8"}
        # Four linear layers of weights at least, and their inputs.
        assert counts["DequantizeLinear"]["int8"] >= 8
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
        assert model.ir_version == 8
        assert "LayerNormalization" in {node.op_type for node in model.graph.node}


def test_every_node_names_its_module(quantized):
    _, artifact = quantized
    for flavour in _int8(artifact):
        model = onnx.load(artifact.file(flavour["file"]))
        modules = {node.name: module_of(node) for node in model.graph.node}
        assert None not in modules.values()
        feeds = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
        (up,) = [node for node in model.graph.node if node.name == "node_hidden"]
        inputs = [feeds[name] for name in up.input]
        assert len(inputs) == 2
        assert {module_of(node) for node in inputs} == {"mlp.up"}


def test_the_outputs_stay_close_to_fp32_on_the_calibration_images(quantized, calibration):
    _, artifact = quantized
    fp32 = _session(artifact.file("fp32.onnx"))
    for flavour in _int8(artifact):
        int8, cosines = _session(artifact.file(flavour["file"])), []
        for batch in calibration:
            a, b = (session.run(None, {"images": batch})[0][0] for session in (fp32, int8))
            assert not np.array_equal(a, b)
            cosines.append(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
        # Random weights 32 channels wide and eight bits: a scale in the wrong place gives far less.
        assert min(cosines) >= 0.95
        assert flavour["golden"]["cosine"] >= 0.95


def test_the_same_calibration_gives_the_same_bytes(quantized, attention_artifact, calibration, tmp_path):
    name, artifact = quantized
    again = QUANTIZERS.get(name)().quantize(attention_artifact, calibration, tmp_path / "again", target=JETSON)
    assert again.files == artifact.files


def test_the_order_of_the_images_does_not_matter(quantized, attention_artifact, calibration, tmp_path):
    name, artifact = quantized
    backwards = dataclasses.replace(calibration, indices=calibration.indices[::-1])
    again = QUANTIZERS.get(name)().quantize(attention_artifact, backwards, tmp_path / "again", target=JETSON)
    for flavour in _int8(artifact):
        for batch in list(calibration)[:4]:
            a, b = (_session(x.file(flavour["file"])).run(None, {"images": batch})[0] for x in (artifact, again))
            np.testing.assert_allclose(a, b, atol=0.05 * np.abs(a).max())


def test_an_existing_folder_is_refused_before_any_work(quantized, attention_artifact, calibration):
    name, artifact = quantized
    with pytest.raises(OutputError, match="exists"):
        QUANTIZERS.get(name)().quantize(attention_artifact, calibration, artifact.path, target=JETSON)
