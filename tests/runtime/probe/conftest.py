"""Bundles to probe: one that is a real model of a known size, and one for a fake vendor package that misbehaves."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgemim.runtime.backends import BACKENDS
from edgemim.runtime.backends._base import Backend
from edgemim.runtime.bundle import Bundle, load_bundle
from edgemim.runtime.plan import Pair

# As much of the package as the backend touches. `do` is what happens when a model is loaded.
FAKE = """
import os, signal, sys, time
from types import SimpleNamespace

class SessionOptions:
    def add_session_config_entry(self, name, value): pass

class InferenceSession:
    def __init__(self, file, settings, providers):
        sys.stderr.write("the fake library loads\\n")
        {do}
    def get_providers(self): return ["CPUExecutionProvider"]
    def get_outputs(self): return [SimpleNamespace(name="logits")]
    def run(self, names, inputs):
        {run}
        import numpy
        return [numpy.zeros((1, 5), numpy.float32)]

ExecutionMode = SimpleNamespace(ORT_SEQUENTIAL=0)
def disable_telemetry_events(): pass
"""


@pytest.fixture
def big_model() -> Callable[[np.ndarray], bytes]:
    """Encodes weights as images [1, 3, H, W] -> logits with 20 MB of other weights between."""
    onnx = pytest.importorskip("onnx", reason="needs onnx to make a model")

    def encode(weights: np.ndarray) -> bytes:
        inner = 5_000_000 // weights.shape[0]
        wide = np.full((weights.shape[0], inner), 1e-3, dtype=np.float32)
        narrow = np.full((inner, weights.shape[1]), 1e-3, dtype=np.float32)
        helper, tensor = onnx.helper, onnx.TensorProto.FLOAT
        size = int((weights.shape[0] // 3) ** 0.5)
        graph = helper.make_graph(
            [
                helper.make_node("Flatten", ["images"], ["flat"]),
                helper.make_node("MatMul", ["flat", "wide"], ["inner"]),
                helper.make_node("MatMul", ["inner", "narrow"], ["logits"]),
            ],
            "big",
            [helper.make_tensor_value_info("images", tensor, [1, 3, size, size])],
            [helper.make_tensor_value_info("logits", tensor, [1, weights.shape[1]])],
            [onnx.numpy_helper.from_array(array, name) for name, array in (("wide", wide), ("narrow", narrow))],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return bytes(model.SerializeToString())

    return encode


@pytest.fixture
def pair_of() -> Callable[..., Pair]:
    """The pair of a bundle's candidate and a backend, by name or given."""

    def make(bundle: Bundle, backend: str | Backend = "onnxruntime", candidate: str = "fp32") -> Pair:
        chosen = next(c for c in bundle.candidates if c.name == candidate)
        return Pair(candidate=chosen, backend=BACKENDS.get(backend)() if isinstance(backend, str) else backend)

    return make


@pytest.fixture
def fake_vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts a fake `onnxruntime` in front of the real one, for processes that are started; returns its folder."""

    def make(do: str = "pass", run: str = "pass") -> Path:
        folder = tmp_path / "fake"
        package = folder / "onnxruntime" / "capi"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text("")
        (package / "onnxruntime_pybind11_state.py").write_text("class Fail(RuntimeError): pass\n")
        (package.parent / "__init__.py").write_text(textwrap.dedent(FAKE).format(do=do, run=run))
        monkeypatch.syspath_prepend(folder)
        return folder

    return make


@pytest.fixture
def small(world: SimpleNamespace) -> Bundle:
    """For the fake package, which does not look at the model."""
    return load_bundle(world.bundle(evaluation=None))
