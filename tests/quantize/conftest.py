"""Images made of noise, and a tiny attention model as an `onnx` artifact, without torch."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from edgemim.artifact import Artifact, create_artifact, load_artifact
from edgemim.preprocess import Preprocess

PREPROCESS = Preprocess(size=(16, 16), crop_ratio=1.0)


class NoiseImages:
    """Encoded images whose content follows from their index; counts how often each is read."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.count

    def encoded(self, index: int, /) -> bytes:
        values = np.random.default_rng(index).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(values).save(stream, format="PNG")
        return stream.getvalue()

    def image(self, index: int, /) -> Image.Image:
        self.reads.append(index)
        return Image.open(io.BytesIO(self.encoded(index))).convert("RGB")


# Patches of 8 pixels, one attention block of one head, GELU-free MLP with a ReLU, mean over tokens, head.
_ATTENTION = """
<ir_version: 8, opset_import: ["" : 17]>
vit (float[1, 3, 16, 16] images) => (float[1, 5] logits)
{
    patches = Conv <kernel_shape = [8, 8], strides = [8, 8]> (images, patch_weight, patch_bias)
    flat = Reshape (patches, to_tokens)
    tokens = Transpose <perm = [0, 2, 1]> (flat)
    normed = LayerNormalization <axis = -1> (tokens, norm_weight, norm_bias)
    q = MatMul (normed, q_weight)
    k = MatMul (normed, k_weight)
    v = MatMul (normed, v_weight)
    kt = Transpose <perm = [0, 2, 1]> (k)
    scores = MatMul (q, kt)
    scaled = Mul (scores, scale)
    attention = Softmax <axis = -1> (scaled)
    mixed = MatMul (attention, v)
    added = Add (tokens, mixed)
    hidden = MatMul (added, up_weight)
    active = Relu (hidden)
    down = MatMul (active, down_weight)
    result = Add (added, down)
    pooled = ReduceMean <axes = [1], keepdims = 0> (result)
    logits = Gemm <transB = 1> (pooled, head_weight, head_bias)
}
"""
_SHAPES = {
    "patch_weight": (32, 3, 8, 8),
    "patch_bias": (32,),
    "norm_weight": (32,),
    "norm_bias": (32,),
    "q_weight": (32, 32),
    "k_weight": (32, 32),
    "v_weight": (32, 32),
    "up_weight": (32, 64),
    "down_weight": (64, 32),
    "head_weight": (5, 32),
    "head_bias": (5,),
}
_MODULES = {
    "patches": "patch",
    "normed": "norm",
    "q": "attn.q",
    "k": "attn.k",
    "v": "attn.v",
    "scores": "attn",
    "mixed": "attn",
    "hidden": "mlp.up",
    "down": "mlp.down",
    "logits": "head",
}


def build_attention() -> onnx.ModelProto:
    """The model above with fixed random weights, module names included."""
    model = onnx.parser.parse_model(_ATTENTION)
    rng = np.random.default_rng(0)
    for name, shape in _SHAPES.items():
        fan_in = np.prod(shape[1:]) if len(shape) != 2 or name == "head_weight" else shape[0]
        values = rng.standard_normal(shape) / np.sqrt(fan_in if len(shape) > 1 else 4)
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    for name, values in (("to_tokens", np.int64([1, 32, 4])), ("scale", np.float32(32**-0.5))):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
        node.metadata_props.add(key="edgemim.module", value=_MODULES.get(node.output[0], ""))
    # Export gives every value its shape.
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def write_onnx_artifact(folder: Path, model: onnx.ModelProto, *, preprocess: Preprocess = PREPROCESS) -> Artifact:
    """An `onnx` artifact as export writes it, around a model of one input and one output."""
    import onnxruntime

    data = model.SerializeToString(deterministic=True)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    images = NoiseImages(10_000)
    pixels = np.stack([preprocess.pixels(images.image(9_000 + i)) for i in range(4)])
    inputs = preprocess.normalise(pixels)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    outputs = np.concatenate([session.run(None, {model.graph.input[0].name: image[None]})[0] for image in inputs])
    with create_artifact(folder, "onnx") as draft:
        draft.path("fp32.onnx").write_bytes(data)
        for name, array in (("inputs", inputs), ("pixels", pixels), ("outputs", outputs)):
            np.save(draft.path(f"golden/{name}.npy"), array)
        draft.content = {
            "architecture": "handmade",
            "num_classes": outputs.shape[1],
            "class_names": None,
            "parameters": 0,
            "preprocess": preprocess.to_dict(),
            "input": {
                "name": model.graph.input[0].name,
                "dtype": "float32",
                "layout": "NCHW",
                "shape": shape,
                "encoding": "normalised",
            },
            "output": {"name": model.graph.output[0].name, "shape": [1, outputs.shape[1]]},
            "flavours": [{"name": "fp32", "precision": "fp32", "opset": 17, "file": "fp32.onnx"}],
            "golden": {name: f"golden/{name}.npy" for name in ("inputs", "pixels", "outputs")} | {"count": 4},
            "calibration": None,
        }
        draft.record("export")
    return load_artifact(folder, "onnx")


@pytest.fixture(scope="session")
def preprocess() -> Preprocess:
    return PREPROCESS


@pytest.fixture(scope="session")
def noise_images() -> type[NoiseImages]:
    return NoiseImages


@pytest.fixture
def attention_model() -> onnx.ModelProto:
    return build_attention()


@pytest.fixture(scope="session")
def write_artifact() -> Callable[..., Artifact]:
    return write_onnx_artifact


@pytest.fixture(scope="session")
def attention_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_onnx_artifact(tmp_path_factory.mktemp("onnx") / "attention", build_attention())
