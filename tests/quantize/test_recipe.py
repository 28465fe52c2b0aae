"""Recipes: one calibration, many INT8 forms."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from edgemim.errors import ConfigError, EdgemimError
from edgemim.quantize.qdq import check_qdq
from edgemim.quantize.recipe import Recipe, place, quantize_model
from edgemim.runtime.targets import TARGETS

X86, JETSON = TARGETS.get("x86"), TARGETS.get("jetson")


@pytest.fixture
def recipe(attention_model):
    units = place(ir.from_proto(attention_model), "everything", X86).units
    thresholds = {site.key: 3.0 for unit in units for site in unit.sites if not site.is_weight}
    return Recipe(placement="everything", thresholds=thresholds)


def _units(model, recipe, target=X86):
    return [unit.name for unit in quantize_model(model, recipe, target)[1]]


def test_a_recipe_makes_the_int8_form_and_leaves_the_float_one_as_it_is(attention_model, recipe):
    before = attention_model.SerializeToString(deterministic=True)
    model, units = quantize_model(attention_model, recipe, X86)
    assert attention_model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(model, full_check=True)
    activations = {site.value for unit in units for site in unit.sites if not site.is_weight}
    assert sum(check_qdq(model)["QuantizeLinear"].values()) == len(activations)
    # The weights are stored as int8: a quarter, and the file is mostly weights.
    assert model.ByteSize() < 0.7 * attention_model.ByteSize()


def test_the_int8_form_computes_nearly_the_same(attention_model, recipe):
    image = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    model, _ = quantize_model(attention_model, recipe, X86)
    outputs = []
    for proto in (attention_model, model):
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        outputs.append(session.run(None, {"images": image})[0][0])
    a, b = outputs
    assert not np.array_equal(a, b)
    # Some 15 roundings to 7 bits each; a pair in a wrong place gives far less.
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.99


def test_units_that_are_left_out_stay_in_float(attention_model, recipe):
    names = _units(attention_model, recipe)
    less = recipe.without("mlp.up").without("head", "attn")
    assert _units(attention_model, less) == [name for name in names if name not in ("mlp.up", "head", "attn")]
    model, _ = quantize_model(attention_model, less, X86)
    weights = {node.output[0]: node.input[1] for node in model.graph.node if node.op_type in ("MatMul", "Gemm")}
    assert weights["hidden"] == "up_weight"
    assert weights["logits"] == "head_weight"
    assert weights["down"] == "down_weight_dequantized"
    assert recipe.left_out == frozenset()


def test_without_any_unit_the_model_is_the_float_one(attention_model, recipe):
    names = _units(attention_model, recipe)
    model, units = quantize_model(attention_model, recipe.without(*names), X86)
    assert units == ()
    assert [node.op_type for node in model.graph.node] == [node.op_type for node in attention_model.graph.node]


def test_two_calls_give_the_same_bytes(attention_model, recipe):
    made = {quantize_model(attention_model, recipe, X86)[0].SerializeToString(deterministic=True) for _ in range(2)}
    assert len(made) == 1


def test_uint8_is_used_only_where_the_target_has_it(attention_model, recipe):
    counts = {target.name: check_qdq(quantize_model(attention_model, recipe, target)[0]) for target in (X86, JETSON)}
    # The softmax and what the ReLU gives.
    assert counts["x86"]["QuantizeLinear"]["uint8"] == 2
    assert set(counts[JETSON.name]["QuantizeLinear"]) == {"int8"}
    assert sum(counts["x86"]["QuantizeLinear"].values()) == counts[JETSON.name]["QuantizeLinear"]["int8"]


def test_an_unknown_unit_is_an_error_that_names_it(attention_model, recipe):
    with pytest.raises(ConfigError, match=r"placement 'everything' has no unit 'mlp\.left' in this model"):
        quantize_model(attention_model, recipe.without("mlp.left"), X86)


def test_an_unknown_placement_is_an_error_that_names_the_nearest(attention_model):
    with pytest.raises(ConfigError, match="did you mean 'attention'"):
        quantize_model(attention_model, Recipe(placement="atention", thresholds={}), X86)


def test_a_recipe_for_another_model_is_refused(attention_model, recipe):
    fewer = {key: value for key, value in recipe.thresholds.items() if not key.startswith("mlp.up")}
    with pytest.raises(EdgemimError, match=r"'mlp\.up:input' has no measured range"):
        quantize_model(attention_model, Recipe(placement="everything", thresholds=fewer), X86)


def test_a_recipe_is_plain_values_and_equal_ones_are_equal(recipe):
    shuffled = Recipe(placement="everything", thresholds=dict(reversed(recipe.thresholds.items())))
    ours, theirs = recipe.without("b", "a").to_dict(), shuffled.without("a").without("b").to_dict()
    assert json.dumps(ours) == json.dumps(theirs)
    assert ours["left_out"] == ["a", "b"]


def test_a_model_that_is_quantized_already_is_refused(attention_model, recipe):
    model, _ = quantize_model(attention_model, recipe, X86)
    with pytest.raises(EdgemimError, match="this model is quantized already") as caught:
        quantize_model(model, recipe, X86)
    assert "\n" not in str(caught.value)


def test_weights_behind_a_dequantize_linear_are_refused_too(attention_model, recipe):
    model, _ = quantize_model(attention_model, recipe.without(*_units(attention_model, recipe)[1:]), X86)
    del model.graph.node[[node.op_type for node in model.graph.node].index("QuantizeLinear")]
    with pytest.raises(EdgemimError, match="quantized already"):
        place(ir.from_proto(model), "linear", X86)


def _strip_modules(model):
    for node in model.graph.node:
        del node.metadata_props[:]


def _strip_names(model):
    for node in model.graph.node:
        node.name = ""


def _same_names(model):
    for node in model.graph.node:
        node.name = "node"


def _strip_shapes(model):
    del model.graph.value_info[:]


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (_strip_modules, "the Conv 'node_patches' does not say which torch module it is; run: edgemim export"),
        (_strip_names, "the Conv '' has no name of its own; run: edgemim export"),
        (_same_names, "the Conv 'node' has no name of its own; run: edgemim export"),
        (_strip_shapes, "the Conv 'node_patches' has no fixed shape; run: edgemim export"),
    ],
    ids=["modules", "names", "same names", "shapes"],
)
def test_a_graph_that_export_did_not_write_is_refused_in_one_line(attention_model, damage, complaint):
    damage(attention_model)
    with pytest.raises(EdgemimError, match=complaint) as caught:
        place(ir.from_proto(attention_model), "linear", X86)
    assert "\n" not in str(caught.value)
