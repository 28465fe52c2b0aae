"""What NVIDIA's own builder makes of a placement: INT8 matrix products, and INT8 attentions in one kernel.

TensorRT for RTX builds for a GPU that is not there. Its log lists the kernels with the types of their inputs: a
structure, no timing.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from edgemim.quantize.recipe import Recipe, place, quantize_model
from edgemim.runtime.nvidia.host_check import build_structure
from edgemim.runtime.nvidia.library import TENSORRT_RTX, load_library
from edgemim.runtime.nvidia.listing import Structure
from edgemim.runtime.nvidia.logger import open_log
from edgemim.runtime.nvidia.parse import parse_onnx
from edgemim.runtime.targets import TARGETS

pytestmark = pytest.mark.tensorrt

BLOCKS, HEADS = 2, 3
JETSON = TARGETS.get("jetson")

# A block of a ViT-Ti in float16. The root of the scale on queries and keys each is the form that takes the fewest
# kernels in float16.
_BLOCK = """
    n{i} = LayerNormalization <axis = -1> (x{i}, gamma, beta)
    a{i} = MatMul (n{i}, w_qkv{i})
    b{i} = Add (a{i}, b_qkv)
    c{i} = Reshape (b{i}, apart)
    d{i} = Transpose <perm = [2, 0, 3, 1, 4]> (c{i})
    q{i}, k{i}, v{i} = Split <axis = 0, num_outputs = 3> (d{i})
    qs{i} = Squeeze (q{i}, first)
    ks{i} = Squeeze (k{i}, first)
    vs{i} = Squeeze (v{i}, first)
    qm{i} = Mul (qs{i}, scale)
    km{i} = Mul (ks{i}, scale)
    kt{i} = Transpose <perm = [0, 1, 3, 2]> (km{i})
    s{i} = MatMul (qm{i}, kt{i})
    p{i} = Softmax <axis = -1> (s{i})
    o{i} = MatMul (p{i}, vs{i})
    ot{i} = Transpose <perm = [0, 2, 1, 3]> (o{i})
    e{i} = Reshape (ot{i}, together)
    f{i} = MatMul (e{i}, w_proj{i})
    g{i} = Add (f{i}, beta)
    r{i} = Add (x{i}, g{i})
    m{i} = LayerNormalization <axis = -1> (r{i}, gamma, beta)
    h{i} = MatMul (m{i}, w_fc1{i})
    t{i} = Add (h{i}, b_fc1)
    u{i} = Gelu (t{i})
    z{i} = MatMul (u{i}, w_fc2{i})
    y{i} = Add (z{i}, beta)
    x{next} = Add (r{i}, y{i})
"""


def _vit(tokens: int = 197, width: int = 64) -> onnx.ModelProto:
    """Blocks in opset 20, the layers and weights of each its own."""
    channels = HEADS * width
    body = "".join(_BLOCK.format(i=i, next=i + 1) for i in range(BLOCKS))
    shape = f"float16[1, {tokens}, {channels}]"
    text = f'<ir_version: 9, opset_import: ["" : 20]> g ({shape} x0) => ({shape} x{BLOCKS}) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    shapes = {"gamma": (channels,), "beta": (channels,), "b_qkv": (3 * channels,), "b_fc1": (4 * channels,)}
    for i in range(BLOCKS):
        shapes |= {f"w_qkv{i}": (channels, 3 * channels), f"w_proj{i}": (channels, channels)}
        shapes |= {f"w_fc1{i}": (channels, 4 * channels), f"w_fc2{i}": (4 * channels, channels)}
    rng = np.random.default_rng(0)
    constants = {name: (rng.standard_normal(size) * 0.05).astype(np.float16) for name, size in shapes.items()}
    constants |= {"scale": np.float16(width**-0.25), "first": np.int64([0])}
    constants |= {"apart": np.int64([1, tokens, 3, HEADS, width]), "together": np.int64([1, tokens, channels])}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items())
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
        node.metadata_props.add(key="edgemim.module", value=f"block.{node.output[0]}")
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def _quantized(model: onnx.ModelProto, placement: str, target=JETSON) -> onnx.ModelProto:
    sites = [site for unit in place(ir.from_proto(model), placement, target).units for site in unit.sites]
    thresholds = {site.key: 1.0 if site.role == "softmax" else 4.0 for site in sites}
    return quantize_model(model, Recipe(placement=placement, thresholds=thresholds), target)[0]


@pytest.fixture(scope="module")
def structure_of(tmp_path_factory):
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    library = load_library(TENSORRT_RTX)
    file = tmp_path_factory.mktemp("models") / "model.onnx"

    def structure(model: onnx.ModelProto) -> Structure:
        onnx.save(model, file)
        return build_structure(parse_onnx(library, open_log(library), file), "8.6")

    return structure


@pytest.fixture(scope="module")
def structures(structure_of):
    model = _vit()
    made = {"fp16": structure_of(model)}
    return made | {name: structure_of(_quantized(model, name)) for name in ("linear", "attention")}


def test_float16_has_no_int8_and_fuses_its_attentions(structures):
    assert structures["fp16"].products == {"Half": 4 * BLOCKS}
    assert structures["fp16"].fused == {"Half": BLOCKS}


def test_every_linear_layer_is_an_int8_product(structures):
    assert structures["linear"].products == structures["attention"].products == {"Int8": 4 * BLOCKS}


def test_every_attention_is_one_int8_kernel(structures):
    assert structures["linear"].fused == {"Half": BLOCKS}
    assert structures["attention"].fused == {"Int8": BLOCKS}
    assert structures["attention"].unfused == 0


def test_int8_attention_takes_no_more_kernels_than_int8_linears(structures):
    assert structures["attention"].kernels <= structures["linear"].kernels


@pytest.mark.parametrize(("tokens", "width", "reason"), [(513, 64, "512 tokens"), (197, 48, "heads of width")])
def test_beyond_the_target_s_limits_the_builder_takes_an_int8_attention_apart(structure_of, tokens, width, reason):
    model = _vit(tokens, width)
    assert reason in place(ir.from_proto(model), "attention", JETSON).remarks[0]
    forced = _quantized(model, "attention", dataclasses.replace(JETSON, int8_head_dims=(), int8_tokens=0))
    assert "Int8" not in structure_of(forced).fused
    kept = structure_of(_quantized(model, "attention"))
    assert kept.products == {"Int8": 4 * BLOCKS}
    assert kept.unfused == 0
