"""The other passes, each on a graph by hand."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest

from edgemim.export.passes import PER_FLAVOUR, SHARED, apply_passes, finish, prepare
from edgemim.export.passes.expand_gelu import expand_gelu
from edgemim.export.passes.fold_constants import fold_constants
from edgemim.export.passes.module_names import module_names
from edgemim.export.passes.remove_unused import remove_unused
from edgemim.export.passes.strip_metadata import strip_metadata

_SCOPES = "pkg.torch.onnx.name_scopes"


def _modules(model: ir.Model) -> dict[str, str | None]:
    return {node.outputs[0].name: node.metadata_props.get("edgemim.module") for node in model.graph}


def test_names_come_first_and_metadata_goes_last():
    assert {passes[0] for passes in SHARED.values()} == {module_names}
    assert {passes[-1] for passes in PER_FLAVOUR.values()} == {strip_metadata}


@pytest.mark.parametrize(("form", "factors"), [("plain", 0), ("tensorrt", 2)])
def test_a_target_says_where_the_scale_of_an_attention_is_left(graph, form, factors):
    model = graph("""
        g (float[1, 1] x) => (float[1, 1] y)
        <float[1, 1] a = {2}, float[1, 1] b = {3}, float[1, 1] c = {4}, float quarter = {0.25}>
        { q = MatMul (x, a)  k = MatMul (x, b)  v = MatMul (x, c)  scores = MatMul (q, k)
          scaled = Mul (scores, quarter)  p = Softmax (scaled)  y = MatMul (p, v) }
    """)
    ops = [node.op_type for node in prepare(model, form=form).graph]
    assert ops.count("Mul") == factors


def test_every_flavour_is_made_from_one_prepared_graph(graph):
    model = graph("""
        g (float[1, 4] x) => (float[1] z) <int64[1] axes = {1}>
        { y = Gelu (x)  z = ReduceMax <keepdims = 0> (y, axes) }
    """)
    model.graph[0].metadata_props[_SCOPES] = "['', 'mlp.act', 'gelu']"
    prepared = prepare(model)
    before = ir.to_proto(prepared).SerializeToString(deterministic=True)
    made = {flavour: finish(prepared, flavour) for flavour in PER_FLAVOUR}
    assert ir.to_proto(prepared).SerializeToString(deterministic=True) == before
    assert {flavour: made[flavour].opset_imports[""] for flavour in made} == {"fp32": 17, "fp16": 20}
    assert [node.op_type for node in made["fp16"].graph] == ["Gelu", "ReduceMax"]
    assert {"Erf", "ReduceMax"} < {node.op_type for node in made["fp32"].graph}
    assert set(_modules(made["fp16"]).values()) == {"mlp.act"}
    fp32 = ir.to_proto(made["fp32"]).SerializeToString(deterministic=True)
    assert ir.to_proto(apply_passes(prepared)).SerializeToString(deterministic=True) == fp32


def test_a_module_is_the_scope_above_the_operator(graph):
    model = graph("g (float[2] x) => (float[2] z) { y = Abs (x)  z = Neg (y) }")
    model.graph[0].metadata_props[_SCOPES] = "['', 'blocks', 'blocks.0', 'blocks.0.act', 'abs']"
    model.graph[1].metadata_props[_SCOPES] = "['', 'neg']"
    assert _modules(module_names(model)) == {"y": "blocks.0.act", "z": ""}


def test_a_node_without_scopes_takes_the_module_it_feeds_else_the_one_that_feeds_it(graph):
    model = graph("""
        g (float[2] x) => (float[2] e) { a = Abs (x)  b = Neg (a)  c = Exp (b)  d = Sin (c)  e = Cos (d) }
    """)
    model.graph[2].metadata_props[_SCOPES] = "['', 'head', 'exp']"
    assert _modules(module_names(model)) == dict.fromkeys("abcde", "head")


def test_a_module_that_is_noted_already_stays(graph):
    model = graph("g (float[2] x) => (float[2] y) { y = Abs (x) }")
    model.graph[0].metadata_props.update({"edgemim.module": "mine", _SCOPES: "['', 'other', 'abs']"})
    assert _modules(module_names(model)) == {"y": "mine"}


def test_everything_but_the_module_is_stripped(graph):
    model = graph("g (float[2] x) => (float[2] y) <float[2] w = {1.0, 2.0}> { y = Mul (x, w) }")
    model.metadata_props["host"] = model.graph.metadata_props["signature"] = "/home/me"
    model.doc_string = model.graph.doc_string = "/home/me"
    node = model.graph[0]
    node.doc_string = "/home/me"
    node.metadata_props.update({"edgemim.module": "act", "pkg.torch.onnx.stack_trace": 'File "/home/me/model.py"'})
    for value in (model.graph.inputs[0], node.outputs[0], model.graph.initializers["w"]):
        value.metadata_props["path"] = value.doc_string = "/home/me"
    data = ir.to_proto(strip_metadata(model)).SerializeToString()
    assert b"/home/me" not in data
    assert _modules(model) == {"y": "act"}


def test_constants_are_folded_through_a_chain_and_a_split(graph, run):
    # Worked: table + 1 = [1, 2, 3, 4]; its halves are [1, 2] and [3, 4]; their product is [3, 8].
    model = graph("""
        g (float[2] x) => (float[2] y) <float[4] table = {0.0, 1.0, 2.0, 3.0}>
        { one = Constant <value_float = 1.0> ()
          more = Add (table, one)
          low, high = Split <axis = 0, num_outputs = 2> (more)
          both = Mul (low, high)
          y = Mul (x, both) }
    """)
    folded = remove_unused(fold_constants(model))
    (node,) = folded.graph
    assert node.inputs[1].const_value.numpy().tolist() == [3.0, 8.0]
    assert list(folded.graph.initializers) == [node.inputs[1].name]
    np.testing.assert_allclose(run(folded, x=np.float32([1, 10]))[0], [3, 80])


@pytest.mark.parametrize(
    "text",
    [
        # Two numbers would become 8 MiB.
        "g (float[2] x) => (float[A, B] y) <float[1] w = {1.0}, int64[2] shape = {2097152, 1}>"
        "{ wide = Expand (w, shape)  y = Mul (x, wide) }",
        "g (float[2] x) => (float[2] y) <float[2] w = {1.0, 2.0}>{ noise = RandomNormalLike (w)  y = Add (x, noise) }",
        "g (float[2] x) => (float[2] y, float[2] c) <float[2] w = {1.0, 2.0}>{ c = Abs (w)  y = Add (x, c) }",
    ],
    ids=["grows", "random", "is an output"],
)
def test_what_should_not_be_folded_stays(graph, text):
    model = graph(text)
    assert len(fold_constants(model).graph) == 2


def test_dead_nodes_and_weights_are_removed_and_inputs_stay(graph):
    model = graph("""
        g (float[2] x, float[2] unused) => (float[2] y) <float[2] w = {1.0, 2.0}>
        { dead = Mul (x, w)  y = Abs (x) }
    """)
    cleaned = remove_unused(model)
    assert [node.op_type for node in cleaned.graph] == ["Abs"]
    assert not cleaned.graph.initializers
    assert [value.name for value in cleaned.graph.inputs] == ["x", "unused"]


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_written_out_exactly_and_keeps_name_shape_and_module(graph, run, approximate):
    model = graph(f"""
        g (float[1, 7] x) => (float[1, 7] z) {{ y = Gelu <approximate = "{approximate}"> (x)  z = Abs (y) }}
    """)
    model.graph[0].metadata_props["edgemim.module"] = "mlp.act"
    x = np.linspace(-4, 4, 7, dtype=np.float32)[None]
    expanded = expand_gelu(model)
    nodes = {node.outputs[0].name: node for node in expanded.graph}
    assert "Gelu" not in {node.op_type for node in expanded.graph}
    assert {node.metadata_props.get("edgemim.module") for name, node in nodes.items() if name != "z"} == {"mlp.act"}
    assert all(node.outputs[0].shape == [1, 7] for node in expanded.graph)
    assert nodes["y"].name == "node_y"
    if approximate == "none":
        expected = [v / 2 * (1 + math.erf(v / math.sqrt(2))) for v in x[0]]
    else:
        expected = [v / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x[0]]
    np.testing.assert_allclose(run(expanded, x=x)[0][0], np.abs(expected), atol=1e-6)
