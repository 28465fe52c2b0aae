"""What NVIDIA's own builder makes of a placement: INT8 matrix products, and INT8 attentions in one kernel.

TensorRT for RTX builds for a GPU that is not there. Its log lists the kernels with the types of their inputs: a
structure, no timing.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from edgemim.quantize.recipe import Recipe, place, quantize_model
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


@dataclasses.dataclass(frozen=True)
class Structure:
    """The kernels of an engine.

    Attributes:
        kernels: All of them.
        products: Those that multiply by weights, by the type of the activation.
        attentions: Those that compute a whole attention, by the types of their inputs.
        softmaxes: Those with a softmax outside of such an attention.
    """

    kernels: int
    products: Counter[str]
    attentions: Counter[str]
    softmaxes: int


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


def _structure(model: onnx.ModelProto) -> Structure:
    trt = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    lines: list[str] = []

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity, message) -> None:
            lines.extend(message.splitlines())

    logger = Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model.SerializeToString()), [str(parser.get_error(i)) for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    assert builder.build_serialized_network(network, config) is not None
    return _read(lines)


def _read(lines: list[str]) -> Structure:
    """The last list of kernels in the log: `Name: ..., LayerType: ..., Inputs: [ ... ], ...`."""
    start = max(position for position, line in enumerate(lines) if line.startswith("Layers:"))
    kernels, softmaxes = 0, 0
    products, attentions = Counter(), Counter()
    for line in lines[start + 1 :]:
        if not line.startswith("Name: "):
            break
        kernels += 1
        name = line.removeprefix("Name: ").split(",")[0]
        inputs = re.search(r"Inputs: \[(.*?)\], (?:Constants|Outputs)", line)
        types = re.findall(r"Datatype: (\w+)", inputs[1] if inputs else "")
        if "_mha" in name:
            attentions["/".join(sorted(set(types)))] += 1
        elif "LayerType: gemm" in line or "Fc" in name:
            products[types[0]] += 1
        softmaxes += bool(re.search("Exp|Softmax", name))
    return Structure(kernels, products, attentions, softmaxes)


@pytest.fixture(scope="module")
def structures():
    model = _vit()
    made = {"fp16": _structure(model)}
    return made | {name: _structure(_quantized(model, name)) for name in ("linear", "attention")}


def test_float16_has_no_int8_and_fuses_its_attentions(structures):
    assert structures["fp16"].products == {"Half": 4 * BLOCKS}
    assert structures["fp16"].attentions == {"Half": BLOCKS}


def test_every_linear_layer_is_an_int8_product(structures):
    assert structures["linear"].products == structures["attention"].products == {"Int8": 4 * BLOCKS}


def test_every_attention_is_one_int8_kernel(structures):
    assert structures["linear"].attentions == {"Half": BLOCKS}
    assert structures["attention"].attentions == {"Int8": BLOCKS}
    assert structures["attention"].softmaxes == 0


def test_int8_attention_takes_no_more_kernels_than_int8_linears(structures):
    assert structures["attention"].kernels <= structures["linear"].kernels


@pytest.mark.parametrize(("tokens", "width", "reason"), [(513, 64, "512 tokens"), (197, 48, "heads of width")])
def test_beyond_the_target_s_limits_the_builder_takes_an_int8_attention_apart(tokens, width, reason):
    model = _vit(tokens, width)
    assert reason in place(ir.from_proto(model), "attention", JETSON).remarks[0]
    forced = _quantized(model, "attention", dataclasses.replace(JETSON, int8_head_dims=(), int8_tokens=0))
    assert "Int8" not in _structure(forced).attentions
    kept = _structure(_quantized(model, "attention"))
    assert kept.products == {"Int8": 4 * BLOCKS}
    assert kept.softmaxes == 0
