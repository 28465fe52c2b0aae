"""Tiny timm models with fixed random weights, as checkpoints; graphs written as ONNX text."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import timm
import torch

from edgemim.artifact import Artifact, create_artifact, load_artifact
from edgemim.preprocess import Preprocess

# The list of backbones and NVIDIA's parser are parts of a benchmark: their folder comes onto the path as when it runs.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2, "num_classes": 10}


@dataclass(frozen=True, kw_only=True)
class TinyCheckpoint:
    """The attributes of `edgemim.models.checkpoint.Checkpoint` that export reads."""

    model: torch.nn.Module
    artifact: Artifact
    preprocess: Preprocess
    class_names: tuple[str, ...] | None
    num_classes: int
    architecture: str


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    with create_artifact(folder, "checkpoint") as draft:
        draft.path("weights").write_text("stands for the weights")
        draft.record("finetune", seed=0)
    return load_artifact(folder)


@pytest.fixture(scope="session")
def make_checkpoint(checkpoint_artifact: Artifact) -> Callable[..., TinyCheckpoint]:
    """`make_checkpoint(name, size, **timm arguments)`: random weights, biases included, from a fixed seed."""

    def make(name: str = "vit_tiny_patch16_224", size: int = 32, **arguments: Any) -> TinyCheckpoint:
        arguments = arguments or VIT
        torch.manual_seed(0)
        model = timm.create_model(name, pretrained=False, **arguments).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim <= 1:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        return TinyCheckpoint(
            model=model,
            artifact=checkpoint_artifact,
            preprocess=Preprocess(size=(size, size)),
            class_names=None,
            num_classes=arguments["num_classes"],
            architecture=name,
        )

    return make


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """Three golden images for the tiny ViT."""
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def exported_tokens(make_checkpoint, pixels, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The tiny ViT as an `onnx` artifact, exported once, with its tokens."""
    from edgemim.export.onnx import export_checkpoint

    folder = tmp_path_factory.mktemp("exports") / "tokens"
    return export_checkpoint(make_checkpoint(), folder, pixels=pixels, output="tokens")


@pytest.fixture
def graph() -> Callable[..., ir.Model]:
    """`graph(text, opset=20)`: an ONNX graph in text form, every node named after its op and first output."""

    def parse(text: str, opset: int = 20) -> ir.Model:
        proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{text}')
        for node in proto.graph.node:
            node.name = f"node_{node.output[0]}"
        return ir.from_proto(onnx.shape_inference.infer_shapes(proto))

    return parse


@pytest.fixture
def run() -> Callable[..., list[np.ndarray]]:
    """`run(model, x=array)`: all outputs of an `onnx_ir.Model` from ONNX Runtime."""
    import onnxruntime

    def call(model: ir.Model, **inputs: np.ndarray) -> list[np.ndarray]:
        data = ir.to_proto(model).SerializeToString()
        return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, inputs)

    return call


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"
