"""Rules for Q/DQ on graphs by hand."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from edgemim.errors import EdgemimError
from edgemim.quantize.qdq import check_qdq, make_signed, module_of, name_modules

_PAIR = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 2] x) => (float[1, 2] y)
{ q = QuantizeLinear (x, scale, zero)  d = DequantizeLinear (q, scale, zero)  y = Relu (d) }
"""


def _pair(scale=0.5, zero=np.int8(0), text=_PAIR) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    for name, values in (("scale", np.asarray(scale, dtype=np.float32)), ("zero", np.asarray(zero))):
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    return model


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_pairs_are_counted_by_dtype(dtype):
    counts = check_qdq(_pair(zero=np.zeros((), dtype=dtype)))
    assert counts == {"QuantizeLinear": {dtype: 1}, "DequantizeLinear": {dtype: 1}}


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (_pair(zero=np.int8(3)), "'node_q' has a zero point that is not 0"),
        (_pair(scale=0.0), "'node_q' has a scale that is not a positive number"),
        (_pair(scale=np.nan), "not a positive number"),
        (_pair(scale=[0.5, 0.25], zero=np.int8([0, 0])), "scale per channel on an activation"),
        (_pair(text=_PAIR.replace("(x, scale, zero)", "(x, x, zero)")), "constant scale and zero point"),
        (_pair(text=_PAIR.split("{")[0] + "{ y = Relu (x) }"), "found nothing to quantize"),
        (
            _pair(text=_PAIR.split("{")[0] + "{ q, s, z = DynamicQuantizeLinear (x) y = Relu (x) }"),
            "DynamicQuant",
        ),
        (_pair(text=_PAIR.split("{")[0] + "{ y = com.microsoft.Gelu (x) }"), "com.microsoft:Gelu"),
    ],
    ids=["zero point", "scale 0", "scale NaN", "per channel", "dynamic", "none", "integer op", "domain"],
)
def test_what_some_target_refuses_is_refused_here(model, complaint):
    with pytest.raises(EdgemimError, match=complaint):
        check_qdq(model)


def test_unsigned_tensors_become_int8_with_a_step_that_covers_the_same_range():
    # uint8 with step 0.5 reaches 127.5; int8 reaches it with a step of 127.5 / 127.
    model = _pair(scale=0.5, zero=np.uint8(0))
    assert make_signed(model) == 1
    assert check_qdq(model) == {"QuantizeLinear": {"int8": 1}, "DequantizeLinear": {"int8": 1}}
    scale = numpy_helper.to_array(model.graph.initializer[0])
    assert scale == pytest.approx(127.5 / 127)
    x = np.float32([[127.5, 60]])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    assert y[0, 0] == pytest.approx(127.5)
    assert abs(y[0, 1] - 60) <= scale / 2


def test_signed_tensors_and_other_zero_points_are_left_alone():
    for zero in (np.int8(0), np.uint8(128)):
        model = _pair(zero=zero)
        before = model.SerializeToString(deterministic=True)
        assert make_signed(model) == 0
        assert model.SerializeToString(deterministic=True) == before


def test_new_nodes_take_the_module_whose_input_they_are_and_old_ones_keep_theirs():
    original = _pair(text=_PAIR.split("{")[0] + "{ y = Relu (x) }")
    original.graph.node[0].metadata_props.add(key="edgemim.module", value="blocks.0.act")
    model = _pair()
    name_modules(model, original)
    assert [module_of(node) for node in model.graph.node] == ["blocks.0.act"] * 3
