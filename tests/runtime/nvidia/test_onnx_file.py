"""`edgemim.runtime.nvidia.onnx_file`: opset and nodes of an ONNX file, without onnx; compared with onnx itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemim.runtime.nvidia.onnx_file import read_onnx
from tests.runtime.nvidia.models import write_linear

onnx = pytest.importorskip("onnx", reason="needs onnx to make a model")


@pytest.mark.parametrize("opset", [17, 20, 300])
def test_it_reads_what_onnx_reads(tmp_path: Path, opset: int) -> None:
    file = write_linear(tmp_path, opset=opset, qdq=True)
    found, expected = read_onnx(file), onnx.load(file)
    assert found.opset == opset
    assert [(n.name, n.operator) for n in found.nodes] == [(n.name, n.op_type) for n in expected.graph.node]
    modules = [{p.key: p.value for p in n.metadata_props}["edgemim.module"] for n in expected.graph.node]
    assert [n.module for n in found.nodes] == modules
    assert found.operators["QuantizeLinear"] == 1


def test_a_node_is_called_by_its_module(tmp_path: Path) -> None:
    first, *_, last = read_onnx(write_linear(tmp_path)).nodes
    assert (str(first), str(last)) == ("op 'Flatten' of the model itself", "op 'MatMul' of module 'head'")


def test_without_a_module_it_is_called_by_its_name(tmp_path: Path) -> None:
    file = write_linear(tmp_path)
    model = onnx.load(file)
    for node in model.graph.node:
        del node.metadata_props[:]
    onnx.save(model, file)
    assert str(read_onnx(file).nodes[-1]) == "op 'MatMul' of node 'head/product'"


def test_an_opset_of_another_domain_does_not_count(tmp_path: Path) -> None:
    file = write_linear(tmp_path)
    model = onnx.load(file)
    model.opset_import.extend([onnx.helper.make_opsetid("com.microsoft", 99)])
    onnx.save(model, file)
    assert read_onnx(file).opset == 17


@pytest.mark.parametrize(
    "data", [b"", b"no model " * 20, b"\x3a\xff\xff\xff\x7f", b"\x08" + b"\xff" * 20, b"\x3a\x02\x0a"], ids=range(5)
)
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.onnx is empty|no ONNX file"):
        read_onnx(tmp_path / "model.onnx")


def test_a_file_cut_off_anywhere_is_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    data = write_linear(tmp_path).read_bytes()
    file = tmp_path / "cut.onnx"
    for size in range(1, len(data), 37):
        file.write_bytes(data[:size])
        with pytest.raises(ValueError, match="no ONNX file"):
            read_onnx(file)
