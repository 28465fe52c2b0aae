"""Graphs whose weights are random, and small timm models in which nothing is zero or one by initialisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import timm
import torch

from edgemim.export.passes.fold_constants import fold_constants
from edgemim.export.passes.module_names import MODULE_KEY, module_names
from edgemim.export.passes.remove_unused import remove_unused
from edgemim.export.tracing import trace

_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
_WINDOWS = {"img_size": 64, "embed_dim": 32, "depths": (2, 1), "num_heads": (2, 4), "window_size": 4}

# Name in timm, image size, arguments.
_BACKBONES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "vit": (
        "vit_tiny_patch16_224",
        32,
        {**_VIT, "depth": 2, "init_values": 0.1, "qk_norm": True, "reg_tokens": 2},
    ),
    "beit": ("beit_base_patch16_224", 32, _VIT),
    "cait": ("cait_xxs24_224", 32, _VIT),
    "convit": ("convit_tiny", 32, {**_VIT, "embed_dim": 16, "depth": 2, "local_up_to_layer": 1}),
    "convnext": ("convnext_atto", 64, {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32), "ls_init_value": 0.1}),
    "deit3": ("deit3_small_patch16_224", 32, _VIT),
    # Queries, keys and values from one layer here, from three in the larger ones.
    "eva02": ("eva02_tiny_patch14_224", 28, {"img_size": 28, "depth": 1, "embed_dim": 32, "num_heads": 2}),
    "eva02_split": ("eva02_base_patch14_224", 28, {"img_size": 28, "depth": 1, "embed_dim": 32, "num_heads": 2}),
    "hiera": ("hiera_tiny_224", 224, {}),
    "rope": ("vit_small_patch16_rope_mixed_224", 32, _VIT),
    "swin": ("swin_tiny_patch4_window7_224", 64, _WINDOWS),
    "swin_v2": ("swinv2_tiny_window8_256", 64, _WINDOWS),
    "tiny_vit": ("tiny_vit_5m_224", 224, {}),
    "xcit": ("xcit_nano_12_p16_224", 32, {"img_size": 32, "depth": 1, "embed_dim": 32, "num_heads": 2}),
}


@pytest.fixture
def layers(graph: Callable[..., ir.Model]) -> Callable[..., ir.Model]:
    """`layers(text)`: a graph as text, whose inputs other than `x` become random constants."""

    def build(text: str) -> ir.Model:
        model = graph(text)
        rng = np.random.default_rng(0)
        for value in list(model.graph.inputs)[1:]:
            model.graph.inputs.remove(value)
            assert value.shape is not None
            array = rng.uniform(0.7, 1.4, value.shape.numpy()) * rng.choice([-1, 1], value.shape.numpy())
            value.const_value = ir.tensor(array.astype(np.float32), name=value.name)
            model.graph.register_initializer(value)
        return model

    return build


@pytest.fixture(scope="session")
def _traced() -> dict[str, bytes]:
    return {}


@pytest.fixture
def backbone(_traced: dict[str, bytes]) -> Callable[[str], ir.Model]:
    """`backbone(name)`: a small timm model as the weight passes get it."""

    def get(name: str) -> ir.Model:
        if name not in _traced:
            _traced[name] = ir.to_proto(_trace(*_BACKBONES[name])).SerializeToString()
        return ir.from_proto(onnx.load_model_from_string(_traced[name]))

    return get


@pytest.fixture
def assert_same() -> Callable[..., None]:
    """`assert_same(model, graph_pass)`: the pass changes the function by rounding alone, and all nodes stay named."""

    def check(model: ir.Model, graph_pass: Callable[[ir.Model], ir.Model]) -> None:
        (source,) = model.graph.inputs
        assert source.shape is not None
        x = np.random.default_rng(1).standard_normal(tuple(source.shape.numpy())).astype(np.float32)
        named = {node.name for node in model.graph if MODULE_KEY in node.metadata_props}
        expected = _run(model, x)
        found = _run(graph_pass(model), x)
        for before, after in zip(expected, found, strict=True):
            assert np.ptp(before) > 0
            # Each fold rounds a weight once more, by 6e-8 of itself, and changes the order of roundings.
            np.testing.assert_allclose(after, before, rtol=0, atol=1e-6 * np.abs(before).max())
        assert {node.name for node in model.graph if MODULE_KEY not in node.metadata_props}.isdisjoint(named)
        onnx.checker.check_model(ir.to_proto(model), full_check=True)

    return check


def _run(model: ir.Model, x: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # The optimizer would fold, and round, on its own.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


def _trace(name: str, size: int, arguments: dict[str, Any]) -> ir.Model:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=10, **arguments).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            elif key.endswith("bias"):
                parameter.normal_(std=0.3)
            else:
                parameter.uniform_(0.7, 1.3)
    images = torch.zeros(1, 3, size, size)
    with torch.no_grad():
        # TinyViT fills a cache of attention biases at its first run.
        model(images)
    graph = trace(model, images, input_name="images", output_name="logits")
    return remove_unused(fold_constants(module_names(graph)))
