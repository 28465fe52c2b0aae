"""The roundings in numpy are those of the graphs that are written."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper

from edgemim.quantize.fake import fake_activation, fake_weight
from edgemim.quantize.insert import insert_qdq
from edgemim.quantize.sites import Site, Unit


def _written(site, thresholds, x, **weights):
    """`y` of a graph whose `site` is quantized, as the graph says."""
    text = "y = MatMul (x, w)" if weights else "y = Identity (x)"
    proto = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 17]> g (float[64, 64] x) => (float[64, N] y) {{ {text} }}'
    )
    for name, array in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    proto.graph.node[0].name = "node_y"
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))
    insert_qdq(model, [Unit(name="m", kind="m", sites=(site,))], thresholds, unsigned=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize("threshold", [2.0, 0.37, 0.0])
@pytest.mark.parametrize("levels", [127, 255])
def test_activations(threshold, levels):
    x = np.random.default_rng(0).uniform(-3, 3, (64, 64)).astype(np.float32)
    site = Site(module="m", role="input", value="x", readers=(("node_y", 0),), unsigned=levels == 255)
    np.testing.assert_array_equal(fake_activation(x, threshold, levels), _written(site, {"m:input": threshold}, x))


def test_weights():
    weight = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    weight[:, 3] = 0
    site = Site(module="m", role="weight", value="w", readers=(("node_y", 1),), axis=1)
    found = fake_weight(weight, 1)
    # Products with the identity add nothing up.
    np.testing.assert_array_equal(found, _written(site, {}, np.eye(64, dtype=np.float32), w=weight))
    np.testing.assert_array_equal(fake_weight(weight.T, 0), found.T)
