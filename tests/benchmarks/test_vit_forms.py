"""The forms of an INT8 ViT compute what the float one does."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from _parts.vit_forms import SIZE, Array, Form, build_vit, measure_ranges

WIDTH, DEPTH = 64, 1


@pytest.fixture(scope="module")
def runtime():
    return pytest.importorskip("onnxruntime", reason="needs onnxruntime")


@pytest.fixture(scope="module")
def ranges(runtime) -> dict[str, float]:
    def run(model: onnx.ModelProto, names: list[str]) -> Iterator[list[Array]]:
        for name in names:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        yield logits(runtime, model, names)

    return measure_ranges(width=WIDTH, depth=DEPTH, run=run)


def logits(runtime, model: onnx.ModelProto, names: list[str] | None = None) -> list[Array]:
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    # 8-bit products that do not saturate, on a CPU without VNNI too.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(1).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
    found: list[Array] = session.run(names or ["logits"], {"images": image})
    return found


@pytest.mark.parametrize(
    "form",
    [
        *(Form(linear=name) for name in ("qdq", "qdq-uint8", "qgemm", "integer", "integer-uint8", "dynamic", "blocks")),
        Form(linear="qdq", per_channel=False),
        Form(linear="qgemm", per_channel=False),
        Form(linear="qdq", weight_steps=63),
        Form(linear="qdq", attention="qdq"),
        Form(linear="integer", attention="fused-qkv"),
        Form(attention="fused"),
    ],
    ids=lambda form: f"{form.linear}-{form.attention}-{form.per_channel}-{form.weight_steps}",
)
def test_every_form_computes_the_same_model(runtime, ranges: dict[str, float], form: Form) -> None:
    (expected,) = logits(runtime, build_vit(Form(), width=WIDTH, depth=DEPTH))
    (found,) = logits(runtime, build_vit(form, width=WIDTH, depth=DEPTH, ranges=ranges))
    a, b = found.ravel().astype(np.float64), expected.ravel().astype(np.float64)
    # 8 bits keep the cosine of one block's logits above this; another weight or a wrong scale does not.
    assert a @ b / np.sqrt((a @ a) * (b @ b)) > 0.999
