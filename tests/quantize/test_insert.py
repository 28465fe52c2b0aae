"""QuantizeLinear and DequantizeLinear in a graph, against fake quantization in plain numpy."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper

from edgemim.errors import EdgemimError
from edgemim.quantize.insert import insert_qdq, levels
from edgemim.quantize.qdq import check_qdq
from edgemim.quantize.sites import Site, Unit

_HEADER = '<ir_version: 9, opset_import: ["" : {opset}]> g '


def _model(text, opset=17, **weights):
    proto = onnx.parser.parse_model(_HEADER.format(opset=opset) + text)
    for name, array in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    for node in proto.graph.node:
        node.name = f"node_{node.output[0]}"
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))


def _unit(*sites):
    return Unit(name="m", kind="m", sites=sites)


def _site(value, *readers, module="m", role="input", axis=None, unsigned=False):
    return Site(module=module, role=role, value=value, readers=readers, axis=axis, unsigned=unsigned)


def _run(model, **inputs):
    """As the graph says: no optimisation may merge a Q and a DQ with their neighbours."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    data = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, inputs)


def _fake(values, scale, low, high):
    """Quantize and dequantize in plain numpy: round half to even, clip."""
    scale = values.dtype.type(scale)
    return (np.clip(np.rint(values / scale), low, high).astype(values.dtype) * scale).astype(values.dtype)


def _spread(shape, reach, dtype=np.float32):
    """Values up to 1.5 times the range, with exact halves of a step among them."""
    values = np.random.default_rng(0).uniform(-1.5 * reach, 1.5 * reach, shape).astype(dtype)
    count = values.size // 2
    values.reshape(-1)[:count] = (np.arange(count) - count // 2 + 0.5) * np.float64(np.float32(reach / 127))
    return values


_IDENTITY = "(float[4, 64] x) => (float[4, 64] y) { y = Identity (x) }"


@pytest.mark.parametrize(
    ("unsigned", "scale", "low", "high"), [(False, 2 / 127, -128, 127), (True, 2 / 255, 0, 255)], ids=["int8", "uint8"]
)
def test_an_activation_is_the_plain_fake_quantization_bit_for_bit(unsigned, scale, low, high):
    model = _model(_IDENTITY)
    site = _site("x", ("node_y", 0), unsigned=True)
    insert_qdq(model, [_unit(site)], {"m:input": 2.0}, unsigned=unsigned)
    x = _spread((4, 64), 2.0)
    (y,) = _run(model, x=x)
    np.testing.assert_array_equal(y, _fake(x, scale, low, high))


def test_a_site_that_may_be_negative_is_int8_on_every_target():
    model = _model(_IDENTITY)
    insert_qdq(model, [_unit(_site("x", ("node_y", 0)))], {"m:input": 2.0}, unsigned=True)
    assert check_qdq(ir.to_proto(model)) == {"QuantizeLinear": {"int8": 1}, "DequantizeLinear": {"int8": 1}}


def test_float16_is_quantized_with_float16_scales():
    model = _model("(float16[4, 64] x) => (float16[4, 64] y) { y = Identity (x) }", opset=20)
    insert_qdq(model, [_unit(_site("x", ("node_y", 0)))], {"m:input": 2.0}, unsigned=False)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    scale = next(numpy_helper.to_array(tensor) for tensor in proto.graph.initializer if "scale" in tensor.name)
    assert scale.dtype == np.float16
    assert scale == np.float16(2 / 127)
    x = _spread((4, 64), 2.0, np.float16)
    (y,) = _run(model, x=x)
    # ONNX Runtime divides float16 in float32; the numbers that come out are float16 products either way.
    expected = np.clip(np.rint(x.astype(np.float32) / np.float32(scale)), -128, 127) * np.float32(scale)
    np.testing.assert_array_equal(y, expected.astype(np.float16))


@pytest.mark.parametrize(
    ("text", "shape", "axis"),
    [("y = MatMul (x, w)", (64, 8), 1), ("y = Gemm <transB = 1> (x, w)", (8, 64), 0)],
)
def test_a_weight_has_its_largest_magnitude_on_127_in_every_channel(text, shape, axis):
    w = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    w *= np.exp(np.linspace(-6, 6, 8, dtype=np.float32)).reshape((1, 8) if axis == 1 else (8, 1))
    model = _model(f"(float[4, 64] x) => (float[4, 8] y) {{ {text} }}", w=w)
    insert_qdq(model, [_unit(_site("w", ("node_y", 1), role="weight", axis=axis))], {}, unsigned=False)
    inits = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    stored, scale = inits["w_int8"], inits["w_scale"]
    assert stored.dtype == np.int8
    assert (np.abs(stored).max(axis=1 - axis) == 127).all()
    assert "w" not in inits
    expected = np.empty_like(w)
    for channel in range(8):
        place = (slice(None), channel) if axis == 1 else (channel, slice(None))
        assert scale[channel] == np.float32(np.abs(w[place]).max() / np.float32(127))
        expected[place] = _fake(w[place], scale[channel], -127, 127)
    x = np.eye(4, 64, dtype=np.float32)
    (y,) = _run(model, x=x)
    # Rows of the identity pick weights: nothing is added up, so nothing is rounded.
    np.testing.assert_array_equal(y, expected[:4] if axis == 1 else expected.T[:4])


def test_a_weight_in_float16_is_rounded_with_its_float16_scale():
    w = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float16)
    # Scales below the smallest normal float16.
    w[:, :4] *= np.float16(1e-4)
    w[0] = -3 * np.abs(w[0])
    model = _model("(float16[4, 64] x) => (float16[4, 8] y) { y = MatMul (x, w) }", opset=20, w=w)
    insert_qdq(model, [_unit(_site("w", ("node_y", 1), role="weight", axis=1))], {}, unsigned=False)
    inits = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    assert inits["w_scale"].dtype == np.float16
    assert (inits["w_scale"] > 0).all()
    # Some of these scales would be rounded down by more than one part in 255: nothing may reach -128.
    assert inits["w_int8"].min() == -127
    scale = inits["w_scale"].astype(np.float64)
    error = np.abs(inits["w_int8"] * scale - w.astype(np.float64))
    assert (error <= scale / 2).all()
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_a_channel_of_zeros_stays_zero():
    w = np.zeros((4, 3), np.float32)
    w[:, 1] = 1
    model = _model("(float[2, 4] x) => (float[2, 3] y) { y = MatMul (x, w) }", w=w)
    insert_qdq(model, [_unit(_site("w", ("node_y", 1), role="weight", axis=1))], {}, unsigned=False)
    (y,) = _run(model, x=np.ones((2, 4), np.float32))
    np.testing.assert_array_equal(y, [[0, 4, 0]] * 2)
    # A denormal scale would become 0 in a process that flushes them.
    assert (model.graph.initializers["w_scale"].const_value.numpy() >= np.finfo(np.float32).tiny).all()


_TWO_READERS = """(float[4, 8] x) => (float[4, 8] y, float[4, 8] z, float[4, 8] v) {
    y = MatMul (x, w)  z = Relu (x)  v = Add (x, w2) }"""


def test_sites_on_one_tensor_share_a_pair_with_the_widest_range():
    model = _model(_TWO_READERS, w=np.eye(8, dtype=np.float32), w2=np.zeros((4, 8), np.float32))
    first = _unit(_site("x", ("node_y", 0), module="a"))
    second = _unit(_site("x", ("node_z", 0), module="b"))
    insert_qdq(model, [first, second], {"a:input": 1.0, "b:input": 3.0}, unsigned=False)
    assert [node.op_type for node in model.graph].count("QuantizeLinear") == 1
    x = _spread((4, 8), 3.0)
    y, z, v = _run(model, x=x)
    np.testing.assert_array_equal(y, _fake(x, 3 / 127, -128, 127))
    np.testing.assert_array_equal(z, np.maximum(y, 0))
    # Who has no site keeps the float.
    np.testing.assert_array_equal(v, x)


def test_a_tensor_that_one_site_allows_to_be_unsigned_and_another_does_not_is_signed():
    model = _model(_TWO_READERS, w=np.eye(8, dtype=np.float32), w2=np.zeros((4, 8), np.float32))
    sites = _site("x", ("node_y", 0), module="a", unsigned=True), _site("x", ("node_z", 0), module="b")
    insert_qdq(model, [_unit(*sites)], {"a:input": 1.0, "b:input": 1.0}, unsigned=True)
    assert check_qdq(ir.to_proto(model))["QuantizeLinear"] == {"int8": 1}


def _tied(first, second, **weights):
    w = np.random.default_rng(1).standard_normal((8, 8)).astype(np.float32)
    text = f"(float[4, 8] x) => (float[4, 8] y, float[4, 8] z) {{ y = {first}  z = {second} }}"
    return _model(text, w=w, **weights), w


def test_layers_that_share_a_weight_share_its_int8_form():
    model, _ = _tied("MatMul (x, w)", "MatMul (y, w)")
    units = [
        _unit(_site("w", (f"node_{out}", 1), module=out, role="weight", axis=1))
        # The later layer first: the weight must still be dequantized before the earlier one.
        for out in ("z", "y")
    ]
    insert_qdq(model, units, {}, unsigned=False)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert [node.op_type for node in model.graph] == ["DequantizeLinear", "MatMul", "MatMul"]
    assert "w" not in model.graph.initializers


def test_a_shared_weight_with_other_output_channels_is_stored_once_for_each():
    model, w = _tied("MatMul (x, w)", "Gemm <transB = 1> (y, w)")
    units = [
        _unit(_site("w", ("node_y", 1), module="a", role="weight", axis=1)),
        _unit(_site("w", ("node_z", 1), module="b", role="weight", axis=0)),
    ]
    insert_qdq(model, units, {}, unsigned=False)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    scales = [numpy_helper.to_array(t) for t in proto.graph.initializer if "scale" in t.name]
    np.testing.assert_array_equal(scales[0], np.abs(w).max(axis=0) / np.float32(127))
    np.testing.assert_array_equal(scales[1], np.abs(w).max(axis=1) / np.float32(127))


def test_a_weight_that_something_else_reads_too_keeps_its_float_there():
    model, w = _tied("MatMul (x, w)", "Gather <axis = 0> (w, rows)", rows=np.int64([0, 1, 2, 3]))
    insert_qdq(model, [_unit(_site("w", ("node_y", 1), role="weight", axis=1))], {}, unsigned=False)
    _, z = _run(model, x=np.zeros((4, 8), np.float32))
    np.testing.assert_array_equal(z, w[:4])


def test_a_weight_that_the_graph_gives_out_stays():
    w = np.eye(8, dtype=np.float32)
    model = _model("(float[4, 8] x) => (float[4, 8] y, float[8, 8] w) { y = MatMul (x, w) }", w=w)
    insert_qdq(model, [_unit(_site("w", ("node_y", 1), role="weight", axis=1))], {}, unsigned=False)
    _, out = _run(model, x=np.zeros((4, 8), np.float32))
    np.testing.assert_array_equal(out, w)


def test_names_that_the_graph_has_already_are_not_taken_again():
    w = np.eye(4, dtype=np.float32)
    text = """(float[2, 4] x) => (float[2, 4] z) {
        x_quantized = MatMul (x, w)  w_int8 = Relu (x_quantized)  z = MatMul (w_int8, w) }"""
    model = _model(text, w=w)
    sites = (
        _site("x", ("node_x_quantized", 0), module="a"),
        _site("w", ("node_x_quantized", 1), module="a", role="weight", axis=1),
    )
    insert_qdq(model, [_unit(*sites)], {"a:input": 1.0}, unsigned=False)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    made = [name for node in proto.graph.node for name in (*node.output, node.name)]
    made += [tensor.name for tensor in proto.graph.initializer]
    assert len(set(made)) == len(made)


def test_an_output_of_the_graph_is_never_rounded():
    model = _model("(float[2, 4] x) => (float[2, 4] y, float[2, 4] z) { y = Neg (x)  z = Relu (y) }")
    insert_qdq(model, [_unit(_site("y", ("node_z", 0)))], {"m:input": 1.0}, unsigned=False)
    x = _spread((2, 4), 1.0)
    y, z = _run(model, x=x)
    np.testing.assert_array_equal(y, -x)
    np.testing.assert_array_equal(z, np.maximum(_fake(-x, 1 / 127, -128, 127), 0))


def test_a_tensor_that_was_all_zeros_in_calibration_gets_the_range_1():
    model = _model(_IDENTITY)
    insert_qdq(model, [_unit(_site("x", ("node_y", 0)))], {"m:input": 0.0}, unsigned=False)
    x = _spread((4, 64), 1.0)
    np.testing.assert_array_equal(_run(model, x=x)[0], _fake(x, 1 / 127, -128, 127))


def test_a_scale_that_float16_takes_for_zero_becomes_its_smallest_number():
    model = _model("(float16[4, 64] x) => (float16[4, 64] y) { y = Identity (x) }", opset=20)
    insert_qdq(model, [_unit(_site("x", ("node_y", 0)))], {"m:input": 1e-7}, unsigned=False)
    check_qdq(ir.to_proto(model))
    assert model.graph.initializers["x_scale"].const_value.numpy() == np.float16(2**-24)


@pytest.mark.parametrize(
    ("thresholds", "complaint"),
    [
        ({}, "'m:input' has no measured range; calibrate this model again"),
        ({"m:input": float("nan")}, "'m:input' has the range nan; calibrate"),
        ({"m:input": float("inf")}, "'m:input' has the range inf; calibrate"),
        ({"m:input": -1.0}, "'m:input' has the range -1.0; calibrate"),
        ({"m:input": 1e7}, r"'m:input' reaches 1e\+07, too much for FLOAT16; leave its unit in float"),
    ],
    ids=["missing", "NaN", "infinite", "negative", "beyond float16"],
)
def test_a_range_that_cannot_be_used_is_one_clear_line(thresholds, complaint):
    model = _model("(float16[4, 64] x) => (float16[4, 64] y) { y = Identity (x) }", opset=20)
    with pytest.raises(EdgemimError, match=complaint) as caught:
        insert_qdq(model, [_unit(_site("x", ("node_y", 0)))], thresholds, unsigned=False)
    assert "\n" not in str(caught.value)


def test_a_weight_that_is_not_finite_is_refused_with_its_module():
    w = np.full((8, 8), np.inf, np.float32)
    model = _model("(float[4, 8] x) => (float[4, 8] y) { y = MatMul (x, w) }", w=w)
    with pytest.raises(EdgemimError, match=r"the weight of 'blocks\.0\.fc' has values that are not finite"):
        insert_qdq(
            model,
            [_unit(_site("w", ("node_y", 1), module="blocks.0.fc", role="weight", axis=1))],
            {},
            unsigned=False,
        )


def test_float16_in_an_opset_that_cannot_quantize_it_is_refused():
    model = _model("(float16[4, 64] x) => (float16[4, 64] y) { y = Identity (x) }", opset=17)
    with pytest.raises(EdgemimError, match="from opset 19 on, and the model has opset 17"):
        insert_qdq(model, [_unit(_site("x", ("node_y", 0)))], {"m:input": 1.0}, unsigned=False)


def test_levels_are_the_steps_between_zero_and_the_threshold():
    signed, unsigned = _site("x"), _site("x", unsigned=True)
    assert [levels(site, unsigned=target) for site in (signed, unsigned) for target in (False, True)] == [
        127,
        127,
        127,
        255,
    ]
