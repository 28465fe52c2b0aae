"""`edgemim.runtime.nvidia.parse`: what becomes a network, and how a refusal is told. Fakes, and the real parser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgemim.errors import DeviceError
from edgemim.runtime.nvidia.library import TENSORRT_RTX, load_library
from edgemim.runtime.nvidia.logger import open_log
from edgemim.runtime.nvidia.parse import Network, parse_onnx
from tests.runtime.nvidia.fake_tensorrt import SUPPORTED, UNKNOWN_OPERATOR
from tests.runtime.nvidia.models import write_linear

onnx = pytest.importorskip("onnx", reason="needs onnx to make a model")


@pytest.fixture(params=[*SUPPORTED, pytest.param("real", marks=pytest.mark.tensorrt)])
def parse(request: pytest.FixtureRequest, machine: Callable) -> Callable[[Path], Network]:
    """Parse with every fake version, and with the real TensorRT-RTX."""
    if request.param == "real":
        pytest.importorskip(TENSORRT_RTX, exc_type=ImportError)
    else:
        machine(request.param)
    library = load_library(TENSORRT_RTX if request.param == "real" else None)
    return lambda file: parse_onnx(library, open_log(library), file)


def test_a_file_becomes_a_network(parse, tmp_path: Path) -> None:
    network = parse(write_linear(tmp_path))
    assert network.definition.num_inputs == 1
    assert tuple(network.definition.get_input(0).shape) == (1, 3, 8, 8)
    assert not network.has_qdq
    assert parse(write_linear(tmp_path, qdq=True)).has_qdq


def test_a_refusal_names_the_operator_and_its_torch_module(parse, tmp_path: Path) -> None:
    with pytest.raises(DeviceError) as caught:
        parse(write_linear(tmp_path, operator=UNKNOWN_OPERATOR))
    message = str(caught.value)
    assert f"cannot compile model.onnx: op '{UNKNOWN_OPERATOR}' of module 'head' is refused: " in message
    assert "Plugin not found, are the plugin name" in message
    assert "\n" not in message


def test_a_dynamic_shape_is_refused(parse, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="input 'images' has a dynamic shape, an edge engine needs static ones"):
        parse(write_linear(tmp_path, batch="n"))


@pytest.mark.parametrize("data", [b"", b"no model " * 20])
def test_what_is_no_onnx_file_is_refused(parse, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(DeviceError, match=r"cannot compile model\.onnx: "):
        parse(tmp_path / "model.onnx")


def test_control_flow_is_refused_before_it_is_parsed(machine: Callable, tmp_path: Path) -> None:
    machine("10.3.0")
    library = load_library()
    with pytest.raises(DeviceError, match="op 'If' of module 'head' is control flow"):
        parse_onnx(library, open_log(library), write_linear(tmp_path, operator="If"))


def test_an_opset_that_8_6_does_not_read_is_refused(machine: Callable, tmp_path: Path) -> None:
    machine("8.6.1")
    library = load_library()
    with pytest.raises(DeviceError, match=r"model\.onnx: it has opset 20, TensorRT 8\.6\.1 reads up to 17"):
        parse_onnx(library, open_log(library), write_linear(tmp_path, opset=20))


def test_8_5_is_refused_with_the_reason(machine: Callable, tmp_path: Path) -> None:
    machine("8.5.3")
    library = load_library()
    with pytest.raises(DeviceError, match=r"TensorRT 8\.5\.3 has no layer normalisation"):
        parse_onnx(library, open_log(library), write_linear(tmp_path))


def test_a_library_that_does_not_start_is_an_error_of_the_device(machine: Callable, tmp_path: Path) -> None:
    trt = machine("10.3.0").trt
    library = load_library()
    log = open_log(library)

    def nothing(self, logger) -> None:
        logger.log(logger.Severity.ERROR, "CUDA initialization failure with error: 999")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt.Builder.__init__ = nothing
    with pytest.raises(DeviceError, match=r"TensorRT 10\.3\.0 cannot start, CUDA initialization failure"):
        parse_onnx(library, log, write_linear(tmp_path))


def test_many_refusals_are_told_once_each_and_counted(machine: Callable, tmp_path: Path) -> None:
    machine("10.3.0")
    library = load_library()
    file = write_linear(tmp_path)
    model = onnx.load(file)
    for index in range(5):
        node = onnx.helper.make_node(UNKNOWN_OPERATOR, ["logits"], [f"x{index}"], name=f"n{index}")
        model.graph.node.extend([node, node])
    onnx.save(model, file)
    with pytest.raises(DeviceError, match=r"'n0'.*'n1'.*'n2'.*; and 2 more$"):
        parse_onnx(library, open_log(library), file)
