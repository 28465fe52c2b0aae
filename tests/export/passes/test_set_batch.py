"""The batch of a graph, on small graphs: the same numbers, image by image."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgemim.errors import EdgemimError
from edgemim.export.parity import run_onnx
from edgemim.export.passes.set_batch import set_batch


def build(text: str, **arrays: Any) -> ir.Model:
    """A graph of opset 17 from text, with these constants, every value with its shape."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    for name, array in arrays.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    for node in proto.graph.node:
        node.name = f"node_{node.output[0]}"
        node.metadata_props.add(key="edgemim.module", value="blocks.0")
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))


def alone(model: ir.Model, images: np.ndarray) -> np.ndarray:
    """The graph for one image, image by image."""
    return run_onnx(ir.to_proto(model).SerializeToString(), images)


def together(model: ir.Model, images: np.ndarray, batch: int) -> np.ndarray:
    proto = ir.to_proto(set_batch(model, batch))
    onnx.checker.check_model(proto, full_check=True)
    (source,), (result,) = proto.graph.input, proto.graph.output
    assert source.type.tensor_type.shape.dim[0].dim_value == batch
    assert result.type.tensor_type.shape.dim[0].dim_value == batch
    return run_onnx(proto.SerializeToString(), images)


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "nothing to mend": ("g (float[1, 4, 6] x) => (float[1, 4, 6] y) { y = Softmax <axis = 2> (x) }", {}),
    "a class token": (
        "g (float[1, 4, 6] x) => (float[1, 5, 6] y) { y = Concat <axis = 1> (token, x) }",
        {"token": np.float32(range(6)).reshape(1, 1, 6)},
    ),
    "heads behind the qkv axis": (
        """g (float[1, 4, 6] x) => (float[1, 4, 2] y)
           { a = Reshape (x, to_qkv)  b = Transpose <perm = [2, 0, 1, 3]> (a)  c = Gather <axis = 0> (b, third)
             y = Reshape (c, back) }""",
        {"to_qkv": [1, 4, 3, 2], "third": np.int64(2), "back": [1, 4, 2]},
    ),
    "windows in the place of the batch": (
        """g (float[1, 4, 6] x) => (float[1, 4, 6] y)
           { a = Reshape (x, windows)  b = Transpose <perm = [0, 2, 1, 3]> (a)  c = Reshape (b, flat)
             m = ReduceMax <axes = [1], keepdims = 1> (c)  d = Sub (c, m)  e = Reshape (d, apart)
             f = Transpose <perm = [0, 2, 1, 3]> (e)  y = Reshape (f, back) }""",
        {"windows": [1, 2, 2, 6], "flat": [2, 2, 6], "apart": [1, 2, 2, 6], "back": [1, 4, 6]},
    ),
    "one matrix for all tokens": (
        """g (float[1, 4, 6] x) => (float[1, 4, 2] y)
           { a = Reshape (x, rows)  b = MatMul (a, w)  y = Reshape (b, back) }""",
        {"rows": [4, 6], "w": np.float32(range(12)).reshape(6, 2), "back": [1, 4, 2]},
    ),
    "the batch behind another axis": (
        """g (float[1, 4, 6] x) => (float[1, 4, 6] y)
           { a = Transpose <perm = [1, 0, 2]> (x)  b = Reshape (a, joined)  c = Neg (b)  d = Reshape (c, apart)
             y = Transpose <perm = [1, 0, 2]> (d) }""",
        {"joined": [4, 6], "apart": [4, 1, 6]},
    ),
    "an expanded axis": (
        "g (float[1, 1, 6] x) => (float[1, 3, 6] y) { y = Expand (x, shape) }",
        {"shape": [1, 3, 6]},
    ),
    "sizes of an image": (
        """g (float[1, 3, 4, 4] x) => (float[1, 3, 8, 8] y)
           { y = Resize <mode = "nearest"> (x, none, none, sizes) }""",
        {"none": np.float32([]), "sizes": [1, 3, 8, 8]},
    ),
    "indices into flat memory": (
        """g (float[1, 4, 6] x) => (float[1, 4] y)
           { m = ReduceMean <axes = [2], keepdims = 0> (x)  a = Reshape (m, flat)  y = Gather (a, order) }""",
        {"flat": [-1], "order": [[3, 1, 2, 0]]},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_image_gets_the_numbers_it_gets_alone(case):
    text, arrays = CASES[case]
    model = build(text, **arrays)
    shape = [int(size) for size in model.graph.inputs[0].shape]
    images = np.random.default_rng(0).standard_normal((3, *shape[1:])).astype(np.float32)
    expected = alone(model, images)
    assert not np.allclose(expected[0], expected[1])
    # The same operations on the same numbers; a library may add them in another order.
    np.testing.assert_allclose(together(model, images, 3), expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_shapes_shared_with_what_has_no_batch_stay(run):
    # The same shape constant reshapes the images and, further down, a table: only the first gets the batch.
    text = """g (float[1, 4, 6] x) => (float[1, 24] y)
              { a = Reshape (x, flat)  t = Reshape (table, flat)  y = Add (a, t) }"""
    table = np.float32(range(24)).reshape(4, 6)
    model = set_batch(build(text, flat=[1, 24], table=table), 2)
    images = np.random.default_rng(0).standard_normal((2, 4, 6)).astype(np.float32)
    np.testing.assert_allclose(run(model, x=images)[0], images.reshape(2, 24) + table.reshape(1, 24), rtol=1e-6)


def test_constants_that_nobody_reads_any_more_are_gone():
    text, arrays = CASES["one matrix for all tokens"]
    assert set(set_batch(build(text, **arrays), 2).graph.initializers) == {
        "node_a_batch_1",
        "node_y_batch_1",
        "w",
    }


def test_nodes_keep_their_names_and_modules():
    text, arrays = CASES["a class token"]
    (node,) = set_batch(build(text, **arrays), 2).graph
    assert (node.name, node.metadata_props["edgemim.module"]) == ("node_y", "blocks.0")


@pytest.mark.parametrize(
    ("text", "arrays", "op"),
    [
        (
            "g (float[1, 4, 6] x) => (float[4, 6] y) { y = ReduceSum <keepdims = 0> (x, axes) }",
            {"axes": [0]},
            "ReduceSum",
        ),
        (
            """g (float[1, 4, 6] x) => (float[3, 8] y)
               { a = Transpose <perm = [1, 0, 2]> (x)  y = Reshape (a, shape) }""",
            {"shape": [3, 8]},
            "Reshape",
        ),
        (
            "g (float[1, 4, 6] x) => (float[1, 4, 6] y) { y = Slice (x, start, end, axes) }",
            {"start": [0], "end": [1], "axes": [0]},
            "Slice",
        ),
    ],
    ids=["a sum over images", "images in between", "the first image alone"],
)
def test_what_would_mix_images_is_refused_by_op_and_module(text, arrays, op):
    with pytest.raises(EdgemimError, match=rf"op '{op}' of module 'blocks\.0'.*--batch 1"):
        set_batch(build(text, **arrays), 2)


def test_an_op_that_onnx_does_not_know_is_refused():
    model = build("g (float[1, 4] x) => (float[1, 4] y) { y = Neg (x) }")
    model.graph[0].domain = "com.microsoft"
    with pytest.raises(EdgemimError, match=r"op 'Neg' of module 'blocks\.0' cannot be given 2 images"):
        set_batch(model, 2)


def test_a_graph_for_several_images_is_a_bug():
    model = build("g (float[2, 4] x) => (float[2, 4] y) { y = Neg (x) }")
    with pytest.raises(ValueError, match="one image at a time"):
        set_batch(model, 2)
