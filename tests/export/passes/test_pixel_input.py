"""The pixel input, on small graphs against the same graphs on normalised floats."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgemim.export.passes.pixel_input import pixel_input
from edgemim.preprocess import Preprocess

CONTRACT = Preprocess(size=(12, 12))
# Another mean and deviation, so that nothing passes by knowing ImageNet's.
OTHER = Preprocess(size=(12, 12), mean=(0.5, 0.1, 0.9), std=(0.5, 0.01, 1.0))

# A patch embedding and what follows it: padding is left open.
_CONV = """
    g (float[2, 3, 12, 12] images) => (float[2, 6, {out}, {out}] y)
    {{ z = Conv <kernel_shape = [4, 4], strides = [4, 4], pads = [{pad}, {pad}, {pad}, {pad}]> (images, w, b)
       y = Neg (z) }}
"""


def build(text: str, arrays: dict[str, Any]) -> ir.Model:
    """A graph of opset 17 from text, with these constants; every node is in the module `patch_embed.proj`."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    for name, array in arrays.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    for node in proto.graph.node:
        node.name = f"node_{node.output[0]}"
        node.metadata_props.add(key="edgemim.module", value="patch_embed.proj")
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))


def weights(*shape: int, bias: bool = True, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """A random weight `w` of this shape, and a bias `b`."""
    rng = np.random.default_rng(0)
    arrays = {"w": rng.normal(size=shape) * 0.1, "b": rng.normal(size=shape[0]) * 0.1}
    return {name: array.astype(dtype) for name, array in arrays.items() if bias or name == "w"}


@pytest.fixture
def pixels() -> np.ndarray:
    """Two images that reach both ends of the range."""
    images = np.random.default_rng(1).integers(0, 256, (2, 12, 12, 3), dtype=np.uint8)
    images[0, :4], images[1, :4] = 0, 255
    return images


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("contract", [CONTRACT, OTHER], ids=["ImageNet", "other"])
@pytest.mark.parametrize(("pad", "out"), [(0, 3), (1, 3)], ids=["patch embedding", "padded"])
def test_pixels_give_what_normalised_floats_gave(run, pixels, contract, pad, out):
    model = build(_CONV.format(pad=pad, out=out), weights(6, 3, 4, 4))
    (expected,) = run(model, images=contract.normalise(pixels))
    changed = pixel_input(model, contract)
    onnx.checker.check_model(ir.to_proto(changed), full_check=True)
    (found,) = run(changed, pixels=pixels)
    # 48 products in another order and rounded once more: a few units in the last place of float32.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    assert np.ptp(expected) > 0.1


def test_the_graph_takes_uint8_nhwc_and_nothing_else_changes_outside():
    model = pixel_input(build(_CONV.format(pad=0, out=3), weights(6, 3, 4, 4)), CONTRACT)
    (source,) = model.graph.inputs
    assert (source.name, source.dtype, list(source.shape)) == ("pixels", ir.DataType.UINT8, [2, 12, 12, 3])
    assert [value.name for value in model.graph.outputs] == ["y"]


def test_normalisation_is_folded_into_a_patch_embedding():
    model = pixel_input(build(_CONV.format(pad=0, out=3), weights(6, 3, 4, 4)), CONTRACT)
    assert ops(model) == ["Cast", "Transpose", "Sub", "Conv", "Neg"]
    assert "w" not in model.graph.initializers, "the weights that nobody reads any more are gone"


def test_folding_is_exact_to_rounding_where_the_weight_is_known(run):
    # Worked: one pixel, weights 1 for every channel, mean 0.5, std 0.25: 255 is (1 - 0.5) / 0.25 = 2 per channel, so
    # white is 6 + bias; black is -6 + bias.
    text = """
        g (float[2, 3, 1, 1] images) => (float[2, 1, 1, 1] y)
        { y = Conv (images, w, b) }
    """
    contract = Preprocess(size=(1, 1), mean=(0.5,) * 3, std=(0.25,) * 3)
    white_and_black = np.array([255, 0], dtype=np.uint8).reshape(2, 1, 1, 1).repeat(3, axis=3)
    model = build(text, {"w": np.ones((1, 3, 1, 1), dtype=np.float32), "b": np.float32([10])})
    (found,) = run(pixel_input(model, contract), pixels=white_and_black)
    np.testing.assert_allclose(found.reshape(-1), [16, 4], rtol=1e-6)


def test_padding_is_of_normalised_zeros_so_the_mean_stays_outside_of_the_convolution():
    model = pixel_input(build(_CONV.format(pad=1, out=3), weights(6, 3, 4, 4)), CONTRACT)
    assert ops(model) == ["Cast", "Transpose", "Sub", "Mul", "Conv", "Neg"]
    assert "w" in model.graph.initializers


def test_a_convolution_without_bias_gets_one(run, pixels):
    text = _CONV.format(pad=0, out=3).replace("(images, w, b)", "(images, w)")
    model = build(text, weights(6, 3, 4, 4, bias=False))
    (expected,) = run(model, images=CONTRACT.normalise(pixels))
    (found,) = run(pixel_input(model, CONTRACT), pixels=pixels)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_two_patch_embeddings_may_share_their_weights(run, pixels):
    text = """
        g (float[2, 3, 12, 12] images) => (float[2, 6, 9, 9] y)
        { u = Conv (images, w, b)  v = Conv (images, w)  y = Sub (u, v) }
    """
    model = build(text, weights(6, 3, 4, 4))
    (expected,) = run(model, images=CONTRACT.normalise(pixels))
    changed = pixel_input(model, CONTRACT)
    (found,) = run(changed, pixels=pixels)
    assert ops(changed)[:3] == ["Cast", "Transpose", "Sub"]
    # The outputs are the small difference of large numbers: held to the size of those.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * 10)


@pytest.mark.parametrize(
    "nodes",
    [
        "z = Conv <kernel_shape = [4, 4], strides = [4, 4]> (images, w)  s = ReduceMean <axes = [1, 2, 3]> (images)",
        'z = Conv <kernel_shape = [4, 4], auto_pad = "SAME_UPPER", strides = [4, 4]> (images, w)  s = Abs (z)',
        "a = Abs (images)  z = Conv <kernel_shape = [4, 4], strides = [4, 4]> (a, w)  s = Abs (z)",
    ],
    ids=["another reader", "automatic padding", "not the first op"],
)
def test_everything_else_is_normalised_outside(run, pixels, nodes):
    text = f"g (float[2, 3, 12, 12] images) => (float[2, 6, 3, 3] y) {{ {nodes}  y = Mul (z, s) }}"
    model = build(text, weights(6, 3, 4, 4, bias=False))
    (expected,) = run(model, images=CONTRACT.normalise(pixels))
    changed = pixel_input(model, CONTRACT)
    assert ops(changed)[:4] == ["Cast", "Transpose", "Sub", "Mul"]
    (found,) = run(changed, pixels=pixels)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_a_depthwise_stem_is_normalised_outside(run, pixels):
    text = """
        g (float[2, 3, 12, 12] images) => (float[2, 6, 9, 9] y)
        { y = Conv <group = 3, kernel_shape = [4, 4]> (images, w) }
    """
    model = build(text, weights(6, 1, 4, 4, bias=False))
    (expected,) = run(model, images=CONTRACT.normalise(pixels))
    (found,) = run(pixel_input(model, CONTRACT), pixels=pixels)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


_QDQ = """
    g (float[2, 3, 12, 12] images) => (float[2, 6, 3, 3] y)
    { q = QuantizeLinear (images, s, z)  d = DequantizeLinear (q, s, z)
      k = DequantizeLinear <axis = 0> (w, ws, wz)
      y = Conv <kernel_shape = [4, 4], strides = [4, 4]> (d, k) }
"""


def test_an_int8_graph_keeps_its_scales_and_sees_the_same_integers(run, pixels):
    arrays = {
        "s": np.float32(0.02),
        "z": np.int8(0),
        "w": np.random.default_rng(0).integers(-127, 128, (6, 3, 4, 4)).astype(np.int8),
        "ws": np.linspace(1e-3, 2e-3, 6, dtype=np.float32),
        "wz": np.zeros(6, dtype=np.int8),
    }
    model = build(_QDQ, arrays)
    (expected,) = run(model, images=CONTRACT.normalise(pixels))
    changed = pixel_input(model, CONTRACT)
    (found,) = run(changed, pixels=pixels)
    assert ops(changed) == [
        "Cast",
        "Transpose",
        "Sub",
        "Mul",
        "QuantizeLinear",
        "DequantizeLinear",
        "DequantizeLinear",
        "Conv",
    ]
    # No pixel of these images lies so close to the edge of a step that the last bit of float32 moves it.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


_HALF = """
    g ({images}[2, 3, 12, 12] images) => (float16[2, 64, 3, 3] y)
    {{ {cast} y = Conv <kernel_shape = [4, 4], strides = [4, 4], pads = [{pad}, {pad}, {pad}, {pad}]> ({read}, w, b) }}
"""


def _double(pixels: np.ndarray, arrays: dict[str, np.ndarray], pad: int) -> np.ndarray:
    """Normalisation and convolution in float64."""
    images = (pixels / 255.0 - CONTRACT.mean) / CONTRACT.std
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))[:, :12, :12]
    patches = padded.reshape(2, 3, 4, 3, 4, 3)
    return np.einsum("bxiyjc,ocij->boxy", patches, arrays["w"]) + arrays["b"][:, None, None]


@pytest.mark.parametrize("given", ["float16", "float"])
@pytest.mark.parametrize("pad", [0, 1])
def test_a_float16_graph_stays_as_near_to_the_truth(run, pixels, given, pad):
    cast, read = ("", "images") if given == "float16" else ("c = Cast <to = 10> (images)", "c")
    text = _HALF.format(images=given, cast=cast, read=read, pad=pad)
    arrays = weights(64, 3, 4, 4, dtype=np.float64)
    truth = _double(pixels, arrays, pad)
    model = build(text, {name: array.astype(np.float16) for name, array in arrays.items()})
    (before,) = run(model, images=CONTRACT.normalise(pixels).astype(np.float16 if given == "float16" else np.float32))
    changed = pixel_input(model, CONTRACT)
    (found,) = run(changed, pixels=pixels)
    folded = ["Cast", "Transpose", "Sub", "Mul", "Conv"]
    assert ops(changed) == (folded if pad == 0 else [*folded[:4], "Cast", "Conv"])
    # Weights are rounded to float16 twice, which is sqrt(2) of the error of once; inputs are rounded no longer.
    error = np.sqrt(np.mean((before - truth) ** 2))
    assert np.sqrt(np.mean((found - truth) ** 2)) < 1.5 * error
    assert np.abs(found - truth).max() < 2**-10 * np.abs(truth).max()


def test_folded_float16_weights_keep_their_size():
    # Divided by 255 * 0.225 alone, weights of 0.001 would be subnormal: 2^-14 is the smallest normal float16.
    text = _HALF.format(images="float16", cast="", read="images", pad=0)
    model = build(text, weights(64, 3, 4, 4, dtype=np.float16))
    before = np.abs(model.graph.initializers["w"].const_value.numpy()).mean()
    (conv,) = (node for node in pixel_input(model, CONTRACT).graph if node.op_type == "Conv")
    after = np.abs(conv.inputs[1].const_value.numpy()).mean()
    assert 0.5 < after / before < 2


def test_new_nodes_belong_to_the_module_that_read_the_images():
    model = pixel_input(build(_CONV.format(pad=0, out=3), weights(6, 3, 4, 4)), CONTRACT)
    assert {node.metadata_props["edgemim.module"] for node in model.graph} == {"patch_embed.proj"}


@pytest.mark.parametrize(
    "text",
    [
        "g (float[1, 3, 4, 4] a, float[1, 3, 4, 4] b) => (float[1, 3, 4, 4] y) { y = Add (a, b) }",
        "g (float[1, 4, 4, 3] a) => (float[1, 4, 4, 3] y) { y = Abs (a) }",
        "g (uint8[1, 3, 4, 4] a) => (uint8[1, 3, 4, 4] y) { y = Identity (a) }",
        "g (float[N, 3, 4, 4] a) => (float[N, 3, 4, 4] y) { y = Abs (a) }",
    ],
    ids=["two inputs", "NHWC", "uint8", "any batch"],
)
def test_a_graph_that_takes_something_else_is_a_bug(graph, text):
    with pytest.raises(ValueError, match=r"one input, float \[B, 3, H, W\]; found"):
        pixel_input(graph(text, opset=17), CONTRACT)


@pytest.mark.tensorrt
@pytest.mark.parametrize("pad", [0, 1])
def test_nvidias_parser_takes_it(pad):
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)
    model = pixel_input(build(_CONV.format(pad=pad, out=3), weights(6, 3, 4, 4)), CONTRACT)
    assert parser.parse(ir.to_proto(model).SerializeToString()), parser.get_error(0).desc()
    assert network.get_input(0).dtype == trt.uint8
