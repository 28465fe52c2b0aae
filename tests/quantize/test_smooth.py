"""SmoothQuant: the factors, their exact fold, and the search for alpha, on a tiny attention model."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper

from edgemim.errors import EdgemimError
from edgemim.quantize.calibration import choose_calibration
from edgemim.quantize.quantizers.ptq import PTQ
from edgemim.quantize.recipe import Recipe, place, quantize_model
from edgemim.quantize.smooth import equation_4, smooth
from edgemim.quantize.smooth_search import ALPHAS, find_smoothing
from edgemim.runtime.targets import TARGETS

X86 = TARGETS.get("x86")
_READ_THE_NORM = ("attn.q", "attn.k", "attn.v")


def _units(model, placement="linear"):
    return place(ir.from_proto(model), placement, X86).units


def _run(model, images, optimised=True):
    options = onnxruntime.SessionOptions()
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    dtype = {"tensor(float16)": np.float16}.get(session.get_inputs()[0].type, np.float32)
    return np.concatenate([session.run(None, {"images": image.astype(dtype)})[0] for image in images])


def _weights(model):
    return {tensor.name: tensor for tensor in model.graph.initializer}


def _set(model, **arrays):
    """Give initializers other numbers, in place."""
    for name, array in arrays.items():
        _weights(model)[name].CopyFrom(numpy_helper.from_array(np.float32(array), name))


def _plant_outliers(model, size=32.0):
    """The same function with channels 3 and 17 of what q, k and v read `size` times as large."""
    factors = np.ones(32)
    factors[[3, 17]] = size
    factors = {"norm_weight": factors, "norm_bias": factors} | {
        f"{name}_weight": 1 / factors[:, None] for name in "qkv"
    }
    _set(model, **{name: numpy_helper.to_array(_weights(model)[name]) * factor for name, factor in factors.items()})


@pytest.fixture
def outliers(attention_model):
    _plant_outliers(attention_model)
    return attention_model


@pytest.fixture(scope="module")
def calibration(noise_images, preprocess):
    return choose_calibration(noise_images(50), preprocess, count=32)


def _search(model, calibration, ranges="max", **settings):
    return find_smoothing(model, _units(model), calibration, ranges=ranges, target=X86, **settings)


def test_equation_4_as_it_stands_in_the_paper():
    rng = np.random.default_rng(0)
    reach, weights = rng.uniform(0.1, 9, 20), rng.uniform(0.1, 2, 20)
    for alpha in (0.0, 0.3, 0.5, 1.0):
        plain = np.array([x**alpha / w ** (1 - alpha) for x, w in zip(reach, weights, strict=True)])
        found = equation_4(reach, weights, alpha)
        np.testing.assert_allclose(found / found[0], plain / plain[0], rtol=1e-12)
        assert (reach / found).max() == pytest.approx(reach.max(), rel=1e-12)


def test_with_alpha_1_all_channels_reach_as_far():
    reach = np.array([0.5, 8.0, 2.0])
    np.testing.assert_allclose(reach / equation_4(reach, np.ones(3), 1.0), 8.0)


def test_channels_of_zeros_do_no_harm():
    found = equation_4(np.array([0.0, 4.0, 1.0, 9.0]), np.array([1.0, 1.0, 1.0, 0.0]), 0.5)
    assert np.isfinite(found).all()
    assert (found > 0).all()
    assert found[1] / found[2] == pytest.approx(2)
    # Nothing reads the last channel, so it may as well be small.
    assert 9 / found[3] < 1 / found[2]
    np.testing.assert_array_equal(equation_4(np.zeros(3), np.ones(3), 0.5), np.ones(3))
    np.testing.assert_array_equal(equation_4(np.ones(3), np.zeros(3), 0.5), np.ones(3))


def _random_factors(powers_of_two=False):
    rng = np.random.default_rng(0)
    logs = {"attn.q": rng.uniform(-3, 3, 32), "mlp.down": rng.uniform(-3, 3, 64)}
    logs |= dict.fromkeys(("attn.k", "attn.v"), logs["attn.q"])
    return {unit: tuple(map(float, 2.0 ** (np.rint(v) if powers_of_two else v))) for unit, v in logs.items()}


def test_the_smoothed_model_computes_the_same(attention_model, calibration):
    images = list(calibration)[:4]
    expected = _run(attention_model, images)
    for factors, tolerance in (
        # A second rounding of each weight, by 6e-8 of itself.
        (_random_factors(), 1e-6 * np.abs(expected).max()),
        # Nothing is rounded: not one bit may differ.
        (_random_factors(powers_of_two=True), 0),
    ):
        model = ir.to_proto(smooth(ir.from_proto(attention_model), _units(attention_model), factors))
        assert not np.array_equal(
            numpy_helper.to_array(_weights(model)["norm_weight"]),
            numpy_helper.to_array(_weights(attention_model)["norm_weight"]),
        )
        np.testing.assert_allclose(
            _run(model, images, optimised=False), _run(attention_model, images, optimised=False), rtol=0, atol=tolerance
        )
        onnx.checker.check_model(model, full_check=True)


def test_weights_and_normalisation_change_as_equation_3_says(attention_model):
    factors = _random_factors()
    model = smooth(ir.from_proto(attention_model), _units(attention_model), factors)
    before, after = _weights(attention_model), _weights(ir.to_proto(model))
    s = np.array(factors["attn.q"])
    for name, factor in (
        ("norm_weight", 1 / s),
        ("norm_bias", 1 / s),
        ("q_weight", s[:, None]),
        ("k_weight", s[:, None]),
        ("v_weight", s[:, None]),
        ("down_weight", np.array(factors["mlp.down"])[:, None]),
        ("up_weight", 1 / np.array(factors["mlp.down"])),
    ):
        expected = (numpy_helper.to_array(before[name]).astype(np.float64) * factor).astype(np.float32)
        np.testing.assert_array_equal(numpy_helper.to_array(after[name]), expected)
    assert (
        numpy_helper.to_array(after["patch_weight"]).tobytes()
        == numpy_helper.to_array(before["patch_weight"]).tobytes()
    )


def _to_half(model):
    half = onnx.ModelProto()
    half.CopyFrom(model)
    half.opset_import[0].version = 20
    for tensor in half.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*half.graph.input, *half.graph.output, *half.graph.value_info):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    mean = next(node for node in half.graph.node if node.op_type == "ReduceMean")
    del mean.attribute[:]
    half.graph.initializer.append(numpy_helper.from_array(np.int64([1]), "axes"))
    mean.input.append("axes")
    mean.attribute.append(onnx.helper.make_attribute("keepdims", 0))
    return half


def test_the_factors_of_fp32_smooth_the_fp16_flavour(attention_model, calibration):
    half, images = _to_half(attention_model), list(calibration)[:4]
    model = ir.to_proto(smooth(ir.from_proto(half), _units(half), _random_factors()))
    onnx.checker.check_model(model, full_check=True)
    assert numpy_helper.to_array(_weights(model)["q_weight"]).dtype == np.float16
    expected = _run(attention_model, images)
    # float16 keeps 11 bits, and some hundred sums pass through it.
    np.testing.assert_allclose(_run(model, images), expected, atol=0.01 * np.abs(expected).max())


def test_layers_that_read_one_normalisation_share_their_factors(outliers, calibration):
    found = _search(outliers, calibration)
    assert len({found.factors[unit] for unit in _READ_THE_NORM}) == 1
    assert len({found.alphas[f"{unit}:input"] for unit in _READ_THE_NORM}) == 1
    # The input of up is a residual, which other layers read.
    assert set(found.alphas) == {*(f"{unit}:input" for unit in _READ_THE_NORM), "mlp.down:input"}


def _plain_error(inputs, weights, factors):
    """In numpy: inputs [images, tokens, C], weights of all layers that read them."""
    total = 0.0
    x = inputs / factors
    step = np.abs(x).max() / 127
    rounded = np.clip(np.rint(x / step), -128, 127) * step
    for weight in weights:
        w = weight * factors[:, None]
        steps = np.abs(w).max(axis=0) / 127
        error = (rounded @ (np.rint(w / steps) * steps) - x @ w).mean(axis=1)
        total += (error**2).mean() / ((inputs @ weight) ** 2).mean()
    return total


def _normed(model, calibration):
    """What q, k and v read on all images, [images, tokens, C]."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(onnx.ValueInfoProto(name="normed"))
    session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["normed"], {"images": image})[0] for image in calibration]).astype(np.float64)


def _curve(model, calibration):
    """Error without smoothing, and by alpha."""
    inputs = _normed(model, calibration)
    weights = [numpy_helper.to_array(_weights(model)[f"{name}_weight"]).astype(np.float64) for name in "qkv"]
    reach = np.abs(inputs).max(axis=(0, 1))
    largest = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    curve = {alpha: _plain_error(inputs, weights, reach**alpha / largest ** (1 - alpha)) for alpha in ALPHAS}
    return _plain_error(inputs, weights, np.ones(32)), curve


@pytest.mark.parametrize("size", [4.0, 32.0])
def test_the_search_takes_the_alpha_with_the_least_error(attention_model, calibration, size):
    _plant_outliers(attention_model, size)
    off, curve = _curve(attention_model, calibration)
    assert min(curve.values()) < 0.5 * off
    found = _search(attention_model, calibration)
    assert found.alphas["attn.q:input"] == min(curve, key=curve.__getitem__)


def test_the_search_leaves_alone_what_smoothing_does_not_help(attention_model, calibration):
    # Every channel of the normalised tokens is 1 or -1, and weights are whole numbers up to 127: INT8 has them all.
    signs = np.where(np.arange(32) % 2, 1.0, -1.0)
    whole = np.random.default_rng(0).integers(-126, 127, (32, 32))
    whole[0] = 127
    _set(attention_model, patch_weight=np.zeros((32, 3, 8, 8)), patch_bias=signs)
    _set(attention_model, norm_weight=np.ones(32), norm_bias=np.zeros(32))
    _set(attention_model, **{f"{name}_weight": whole for name in "qkv"})
    off, curve = _curve(attention_model, calibration)
    # What the epsilon of the normalisation leaves.
    assert off < 1e-3 * min(curve.values())
    found = _search(attention_model, calibration)
    assert found.alphas["attn.q:input"] == 0
    assert not set(found.factors) & set(_READ_THE_NORM)


@pytest.mark.parametrize("workers", [2, 3])
def test_the_number_of_workers_does_not_matter(outliers, calibration, workers):
    assert _search(outliers, calibration, workers=workers) == _search(outliers, calibration, workers=1)


def test_without_a_layer_that_can_be_smoothed_nothing_happens(attention_model, calibration):
    units = [unit for unit in _units(attention_model) if unit.name == "mlp.up"]
    found = find_smoothing(attention_model, units, calibration, ranges="max", target=X86)
    assert (found.factors, found.alphas) == ({}, {})


def test_factors_for_another_model_are_refused_in_one_line(attention_model):
    units = _units(attention_model)
    for factors, complaint in (
        ({"mlp.up": (1.0,) * 32}, "the smoothing of 'mlp.up' has no place in this graph"),
        ({"attn.q": (1.0,) * 16}, "'attn.q' was smoothed with other channels; calibrate this model again"),
    ):
        with pytest.raises(EdgemimError, match=complaint) as caught:
            smooth(ir.from_proto(attention_model), units, factors)
        assert "\n" not in str(caught.value)


def _noise(model, recipe, images):
    """Energy of the INT8 form's error over the energy of the outputs."""
    int8, _ = quantize_model(model, recipe, X86)
    expected = _run(model, images)
    return float(((_run(int8, images, optimised=False) - expected) ** 2).sum() / (expected**2).sum())


def test_ptq_calibrates_the_smoothed_model_and_says_what_it_did(outliers, calibration, write_artifact, tmp_path):
    artifact, images = write_artifact(tmp_path / "fp32", outliers), list(calibration)
    quantizer = PTQ(placements=("attention",), ranges="max", smooth=True, bias_correction=False, workers=2)
    prepared = quantizer.prepare(artifact, calibration, X86)
    recipe = prepared.recipes["attention"]
    assert set(_READ_THE_NORM) <= set(recipe.smoothing)
    alpha = prepared.measured["attn.q:input"]["alpha"]
    assert alpha in ALPHAS
    assert "alpha" not in prepared.measured["mlp.up:input"]
    smoothed = ir.to_proto(smooth(ir.from_proto(outliers), _units(outliers), recipe.smoothing))
    for unit in _READ_THE_NORM:
        assert recipe.thresholds[f"{unit}:input"] == np.float32(np.abs(_normed(smoothed, calibration)).max())

    plain = dataclasses.replace(quantizer, smooth=False).prepare(artifact, calibration, X86).recipes["attention"]
    assert (plain.smoothing, plain.bias) == ({}, {})
    # Two channels 32 times as large as the others leave those 4 of 127 levels.
    assert _noise(outliers, recipe, images) < 0.2 * _noise(outliers, plain, images)

    written = quantizer.quantize(artifact, calibration, tmp_path / "int8", target=X86)
    (flavour,) = [entry for entry in written.content["flavours"] if entry["precision"] == "int8"]
    assert flavour["settings"]["smooth"] is True
    measured = json.loads(written.file("calibration.json").read_text())["measured"]
    assert measured["attn.q:input"]["alpha"] == alpha


def test_units_that_stay_in_float_are_smoothed_with_their_neighbours(outliers, calibration):
    units, images = _units(outliers), list(calibration)[:4]
    recipe = Recipe(
        placement="linear",
        thresholds={site.key: 4.0 for unit in units for site in unit.sites if not site.is_weight},
        smoothing=_search(outliers, calibration).factors,
    )
    # Nothing is INT8, and the fold is exact but for the rounding of weights to float32.
    assert _noise(outliers, recipe.without(*(unit.name for unit in units)), images) < 1e-12
    assert _noise(outliers, recipe.without("attn.k", "attn.v", "mlp.up", "mlp.down"), images) < 1e-2


def test_equal_smoothings_make_equal_recipes(outliers, calibration):
    first, second = (
        Recipe(placement="linear", thresholds={}, smoothing=_search(outliers, calibration).factors) for _ in range(2)
    )
    assert first == second
    assert json.loads(json.dumps(first.to_dict()))["smoothing"]["attn.q"] == list(second.smoothing["attn.q"])
    assert first.to_dict() != Recipe(placement="linear", thresholds={}).to_dict()
