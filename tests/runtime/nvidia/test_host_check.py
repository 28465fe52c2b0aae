"""The host check: what it says without TensorRT-RTX, which GPU stands in for which, and its rows with the real one."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgemim.errors import DeviceError
from edgemim.runtime.nvidia import host_check
from edgemim.runtime.nvidia.host_check import NOT_CHECKED, check_on_host, host_builder, nearest_capability, not_checked
from edgemim.runtime.nvidia.library import Library

_GRAPH = '<ir_version: 8, opset_import: ["" : 17]> g (float[2, 8] x) => (float[2, 2] y) { BODY }'
_PRODUCT = "t = Transpose (x)  y = MatMul (x, t)"
# NVIDIA's parser takes no zero point but 0.
_ASYMMETRIC = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[2, 8] x) => (float[2, 8] y) <float scale = {0.1}, int8 zero = {3}>
    { q = QuantizeLinear (x, scale, zero)  y = DequantizeLinear (q, scale, zero) }"""


class FakeCapabilities(Enum):
    """The names of TensorRT-RTX 1.7."""

    CURRENT = -1
    SM75 = 75
    SM80 = 80
    SM86 = 86
    SM89 = 89
    SM120 = 120
    SM121 = 121


def fake_library() -> Library:
    return Library(name="tensorrt_rtx", module=SimpleNamespace(ComputeCapability=FakeCapabilities))


@pytest.fixture(scope="module")
def real() -> Library:
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    found = host_builder()
    assert isinstance(found, Library), found
    return found


def written(path: Path, text: str) -> Path:
    onnx = pytest.importorskip("onnx")
    proto = onnx.parser.parse_model(text)
    for node in proto.graph.node:
        node.name = f"node_{node.output[0]}"
        node.metadata_props.add(key="edgemim.module", value="blocks.0.act")
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("wanted", "nearest"),
    [
        ("8.6", "8.6"),
        ("8.7", "8.6"),
        ("8.0", "8.0"),
        ("11.0", "12.0"),
        ("7.5", "7.5"),
        ("9.0", "12.0"),
        ("13.0", "12.1"),
    ],
)
def test_the_nearest_gpu_stands_in(wanted: str, nearest: str) -> None:
    assert nearest_capability(fake_library(), wanted) == nearest


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_check, "installed", lambda: ("tensorrt",))
    reason = host_builder()
    assert reason == "the package 'tensorrt_rtx' is not installed; run: pip install 'edgemim[rtx]'"
    row = not_checked("fp16", reason)
    assert row["candidate"] == "fp16"
    assert row["note"] == f"{NOT_CHECKED}: {reason}"
    assert {value for key, value in row.items() if key not in ("candidate", "note")} == {None}


def test_a_package_that_cannot_be_loaded_is_a_reason_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise DeviceError(f"{name} is installed and cannot be loaded: libcudart.so.13 is missing")

    monkeypatch.setattr(host_check, "installed", lambda: ("tensorrt_rtx",))
    monkeypatch.setattr(host_check, "load_library", broken)
    assert host_builder() == "tensorrt_rtx is installed and cannot be loaded: libcudart.so.13 is missing"


@pytest.mark.tensorrt
def test_a_graph_is_parsed_and_built_for_the_gpu_that_stands_in(real: Library, tmp_path: Path) -> None:
    row = check_on_host(real, written(tmp_path / "m.onnx", _GRAPH.replace("BODY", _PRODUCT)), "8.7")
    assert (row["compute_capability"], row["stands_for"]) == ("8.6", "8.7")
    assert row["builder"].startswith("TensorRT-RTX ")
    # One kernel for the product, and at most one for the transposition.
    assert row["kernels"] in (1, 2)
    assert (row["parsed"], row["error"], row["note"]) == (True, None, None)
    assert (row["int8_gemms"], row["fused_mha"], row["unfused_softmax"], row["mha_inputs"]) == (0, 0, 0, {})


@pytest.mark.tensorrt
def test_a_softmax_without_an_attention_is_counted(real: Library, tmp_path: Path) -> None:
    body = "t = Transpose (x)  p = MatMul (x, t)  y = Softmax (p)"
    row = check_on_host(real, written(tmp_path / "m.onnx", _GRAPH.replace("BODY", body)), "8.6")
    assert row["stands_for"] is None
    assert (row["fused_mha"], row["unfused_softmax"], row["mha_inputs"]) == (0, 1, {"blocks.0.act": None})


@pytest.mark.tensorrt
def test_a_refusal_names_op_and_module(real: Library, tmp_path: Path) -> None:
    row = check_on_host(real, written(tmp_path / "m.onnx", _ASYMMETRIC), "12.0")
    assert row["parsed"] is False
    assert row["kernels"] is None
    assert "op 'QuantizeLinear' of module 'blocks.0.act' is refused" in row["error"]
    assert "\n" not in row["error"]
