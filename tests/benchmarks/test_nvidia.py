"""NVIDIA's parser and builder on graphs of one or two ops."""

from __future__ import annotations

import onnx
import pytest
from _parts import nvidia

pytestmark = pytest.mark.tensorrt

_ASYMMETRIC = """
    g (float[2, 8] x) => (float[2, 8] y) <float scale = {0.1}, int8 zero = {3}>
    { q = QuantizeLinear (x, scale, zero)  y = DequantizeLinear (q, scale, zero) }
"""


@pytest.fixture(autouse=True)
def _installed():
    pytest.importorskip("tensorrt_rtx")


def _graph(text):
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    for node in proto.graph.node:
        node.name = f"node_{node.output[0]}"
        node.metadata_props.add(key="edgemim.module", value="blocks.0.act")
    return proto.SerializeToString()


def test_a_graph_is_built_into_kernels():
    verdict = nvidia.judge(_graph("g (float[2, 8] x) => (float[2, 2] y) { t = Transpose (x)  y = MatMul (x, t) }"))
    assert (verdict.parsed, verdict.built, verdict.reason) == (True, True, None)
    # One kernel for the product, and at most one for the transposition.
    assert verdict.kernels in (1, 2)


@pytest.mark.parametrize(
    ("text", "op"),
    [("g (float[2, 2] x) => (float y) { y = Det (x) }", "Det"), (_ASYMMETRIC, "QuantizeLinear")],
    ids=["unsupported", "zero point"],
)
def test_a_refusal_names_op_and_module_in_one_line(text, op):
    verdict = nvidia.judge(_graph(text))
    assert (verdict.parsed, verdict.built, verdict.kernels) == (False, False, None)
    assert verdict.reason.startswith(f"op {op!r} of module 'blocks.0.act' is refused: ")
    assert "\n" not in verdict.reason
