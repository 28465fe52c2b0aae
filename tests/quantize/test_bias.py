"""Bias correction against plain sums over all calibration images."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper

from edgemim.quantize.bias import IMAGES, correct_bias, find_bias
from edgemim.quantize.calibration import choose_calibration
from edgemim.quantize.quantizers.ptq import PTQ
from edgemim.quantize.recipe import Recipe, place, quantize_model
from edgemim.runtime.targets import TARGETS

X86, JETSON = TARGETS.get("x86"), TARGETS.get("jetson")


def _units(model, placement="linear", target=X86):
    return place(ir.from_proto(model), placement, target).units


def _session(model, *outputs):
    """The graph as it says, with inner values as outputs."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _values(model, images, name):
    """An inner value on all images, float64."""
    session = _session(model, name)
    source = session.get_inputs()[0].name
    return np.concatenate([session.run([name], {source: image})[0] for image in images]).astype(np.float64)


def _thresholds(units, reach=2.0):
    """Ranges that cut some values off, so that there is something to correct."""
    return {site.key: reach for unit in units for site in unit.sites if not site.is_weight}


def _fake(values, threshold, low, high):
    step = np.float64(np.float32(threshold / high))
    return np.clip(np.rint(values / step), low, high) * step


@pytest.fixture(scope="module")
def calibration(noise_images, preprocess):
    return choose_calibration(noise_images(50), preprocess, count=24)


def _find(model, calibration, workers=1, target=X86, placement="linear"):
    units = _units(model, placement, target)
    return find_bias(model, units, _thresholds(units), calibration, target=target, workers=workers)


_LAYERS = {
    "attn.q": ("normed", "q_weight", -128, 127),
    "mlp.up": ("added", "up_weight", -128, 127),
    # What a ReLU gives is uint8 where the target has it.
    "mlp.down": ("active", "down_weight", 0, 255),
}


@pytest.mark.parametrize("unit", _LAYERS)
def test_it_is_the_mean_error_over_all_images_and_tokens(attention_model, calibration, unit):
    value, weight, low, high = _LAYERS[unit]
    x = _values(attention_model, calibration, value)
    w = next(numpy_helper.to_array(t) for t in attention_model.graph.initializer if t.name == weight).astype(np.float64)
    steps = np.float32(np.abs(w).max(axis=0)) / np.float32(127)
    stored = np.rint(w / steps) * steps
    expected = (x @ w - _fake(x, 2.0, low, high) @ stored).mean(axis=(0, 1))
    found = np.array(_find(attention_model, calibration)[unit])
    # Values are float32 where they come from the model, so some lie at another side of a step's middle.
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_a_target_without_uint8_has_another_correction(attention_model, calibration):
    x86, jetson = (_find(attention_model, calibration, target=target) for target in (X86, JETSON))
    assert x86["mlp.down"] != jetson["mlp.down"]
    assert x86["attn.q"] == jetson["attn.q"]


def _mean_error(model, recipe, images, value):
    """Of one layer in INT8 alone, whose inputs are those of the float model, by channel."""
    int8, units = quantize_model(model, recipe, X86)
    assert len(units) == 1
    error = _values(int8, images, value) - _values(model, images, value)
    channels = np.moveaxis(error, 1, -1) if error.ndim == 4 else error
    return channels.reshape(-1, channels.shape[-1]).mean(axis=0)


@pytest.mark.parametrize(("unit", "value"), [("attn.k", "k"), ("mlp.up", "hidden"), ("mlp.down", "down")])
def test_the_mean_error_of_a_corrected_layer_is_nothing(attention_model, calibration, unit, value):
    units = _units(attention_model)
    others = [other.name for other in units if other.name != unit]
    plain = Recipe(placement="linear", thresholds=_thresholds(units)).without(*others)
    corrected = Recipe(
        placement="linear", thresholds=_thresholds(units), bias=_find(attention_model, calibration)
    ).without(*others)
    before = _mean_error(attention_model, plain, calibration, value)
    after = _mean_error(attention_model, corrected, calibration, value)
    # What is left is the rounding of float32 sums.
    assert np.abs(after).max() < 1e-3 * np.abs(before).max()


_CONVOLUTIONS = {
    "strides and padding": ("kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]", (12, 6, 3, 3)),
    "uneven padding": ("kernel_shape = [2, 3], pads = [1, 0, 0, 2]", (12, 6, 2, 3)),
    "groups": ("kernel_shape = [3, 3], group = 2", (12, 3, 3, 3)),
    "depthwise": ("kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 6", (6, 1, 3, 3)),
    "dilations": ("kernel_shape = [3, 3], dilations = [2, 2], pads = [2, 2, 2, 2]", (12, 6, 3, 3)),
}


def _convnet(attributes, shape):
    model = onnx.parser.parse_model(f"""
        <ir_version: 9, opset_import: ["" : 17]>
        g (float[1, 3, 16, 16] images) => (float[1, N] y)
        {{
            a = Conv <kernel_shape = [1, 1]> (images, first)
            b = Relu (a)
            c = Conv <{attributes}> (b, second)
            y = Flatten (c)
        }}""")
    rng = np.random.default_rng(0)
    for name, dims in (("first", (6, 3, 1, 1)), ("second", shape)):
        array = rng.standard_normal(dims).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
        node.metadata_props.add(key="edgemim.module", value=f"m.{node.output[0]}")
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


@pytest.mark.parametrize(("attributes", "shape"), _CONVOLUTIONS.values(), ids=_CONVOLUTIONS)
def test_the_mean_error_of_a_corrected_convolution_is_nothing(calibration, attributes, shape):
    model = _convnet(attributes, shape)
    units = _units(model, "conv")
    bias = _find(model, calibration, placement="conv")
    recipe = Recipe(placement="conv", thresholds=_thresholds(units)).without("m.a")
    before = _mean_error(model, recipe, calibration, "c")
    corrected = Recipe(placement="conv", thresholds=_thresholds(units), bias=bias).without("m.a")
    after = _mean_error(model, corrected, calibration, "c")
    assert np.abs(after).max() < 1e-3 * np.abs(before).max()


@pytest.mark.parametrize("workers", [2, 3])
def test_the_number_of_workers_changes_no_bit(attention_model, calibration, workers):
    assert _find(attention_model, calibration, workers=workers) == _find(attention_model, calibration, workers=1)


def test_the_first_images_are_enough(attention_model, noise_images, preprocess):
    first, more = (
        choose_calibration(noise_images(IMAGES + 8), preprocess, count=count) for count in (IMAGES, IMAGES + 8)
    )
    assert _find(attention_model, first) == _find(attention_model, more)


def test_units_that_stay_in_float_keep_their_bias(attention_model, calibration):
    units, images = _units(attention_model), list(calibration)[:2]
    recipe = Recipe(placement="linear", thresholds=_thresholds(units), bias=_find(attention_model, calibration))
    model, left = quantize_model(attention_model, recipe.without(*(unit.name for unit in units)), X86)
    assert left == ()
    np.testing.assert_array_equal(_values(model, images, "logits"), _values(attention_model, images, "logits"))


def test_a_correction_does_not_hang_on_the_placement(attention_model, calibration):
    linear, everything = (_find(attention_model, calibration, placement=name) for name in ("linear", "everything"))
    assert linear.items() <= everything.items()
    assert "head" in everything.keys() - linear.keys()
    model = ir.from_proto(attention_model)
    correct_bias(model, _units(attention_model), everything)
    before = next(numpy_helper.to_array(t) for t in attention_model.graph.initializer if t.name == "head_bias")
    np.testing.assert_array_equal(model.graph.initializers["head_bias"].const_value.numpy(), before)


def test_ptq_corrects_what_it_says(attention_artifact, calibration, tmp_path):
    quantizer = PTQ(placements=("linear",), ranges="max", bias_correction=True, smooth=False, workers=2)
    recipe = quantizer.prepare(attention_artifact, calibration, X86).recipes["linear"]
    assert set(recipe.bias) == {"attn.q", "attn.k", "attn.v", "mlp.up", "mlp.down"}
    assert json.loads(json.dumps(recipe.to_dict()))["bias"]["mlp.up"] == list(recipe.bias["mlp.up"])
    written = quantizer.quantize(attention_artifact, calibration, tmp_path / "int8", target=X86)
    (flavour,) = [entry for entry in written.content["flavours"] if entry["precision"] == "int8"]
    assert flavour["settings"]["bias_correction"] is True
    model = onnx.load(written.file(flavour["file"]))
    # None of these layers had a bias.
    assert sum(node.op_type == "Add" for node in model.graph.node) == 2 + 5
