"""What is particular to NNCF."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgemim.errors import EdgemimError, MissingDependencyError
from edgemim.quantize.calibration import choose_calibration
from edgemim.quantize.quantizers import QUANTIZERS
from edgemim.runtime.targets import TARGETS

# A depthwise convolution between ReLUs: NNCF's own defaults give it uint8 and a scale per input channel.
_CONVNET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 3, 16, 16] images) => (float[1, 4] logits)
{
    a = Conv <kernel_shape = [4, 4], strides = [4, 4]> (images, a_weight, shared)
    b = Relu (a)
    c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 8> (b, c_weight, shared)
    d = Relu (c)
    e = ReduceMean <axes = [2, 3], keepdims = 0> (d)
    logits = Gemm <transB = 1> (e, head_weight)
}
"""


@pytest.fixture
def convnet():
    model = onnx.parser.parse_model(_CONVNET)
    rng = np.random.default_rng(0)
    for name, shape in {"a_weight": (8, 3, 4, 4), "c_weight": (8, 1, 3, 3), "head_weight": (4, 8)}.items():
        values = rng.standard_normal(shape).astype(np.float32) / np.sqrt(np.prod(shape[1:]))
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    model.graph.initializer.append(numpy_helper.from_array(np.full(8, 0.5, dtype=np.float32), "shared"))
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
        node.metadata_props.add(key="edgemim.module", value=node.output[0])
    return model


@pytest.fixture
def calibration(noise_images, preprocess):
    return choose_calibration(noise_images(20), preprocess, count=8)


def _quantize(source, batches, out, target="x86"):
    return QUANTIZERS.get("nncf")().quantize(source, batches, out, target=TARGETS.get(target))


def test_attention_makes_it_a_transformer(attention_artifact, calibration, tmp_path):
    artifact = _quantize(attention_artifact, calibration, tmp_path / "out")
    assert artifact.content["flavours"][1]["settings"] == {
        "fast_bias_correction": True,
        "model_type": "transformer",
    }


def test_nothing_is_printed_and_logging_is_left_as_it_was(attention_artifact, calibration, tmp_path, capfd):
    level, logger_class = logging.getLogger("nncf").level, logging.getLoggerClass()
    _quantize(attention_artifact, calibration, tmp_path / "out")
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("nncf").level == level
    assert logging.getLoggerClass() is logger_class
    assert "NNCF_CI" not in os.environ


@pytest.mark.parametrize("target", ["jetson", "x86"])
def test_a_depthwise_convolution_gets_one_scale_per_tensor(write_artifact, convnet, calibration, tmp_path, target):
    source = write_artifact(tmp_path / "convnet", convnet)
    artifact = _quantize(source, calibration, tmp_path / "out", target)
    flavour = artifact.content["flavours"][1]
    assert flavour["settings"]["model_type"] is None
    assert ("uint8" in flavour["nodes"]["QuantizeLinear"]) == (target == "x86")
    # Eight channels of random weights: rough, but a scale in the wrong place gives far less.
    assert flavour["golden"]["cosine"] >= 0.9


def test_corrected_biases_of_two_layers_do_not_mix(write_artifact, convnet, calibration, tmp_path):
    source = write_artifact(tmp_path / "convnet", convnet)
    artifact = _quantize(source, calibration, tmp_path / "out")
    model = onnx.load(artifact.file("int8-nncf.onnx"))
    biases = {node.name: node.input[2] for node in model.graph.node if node.op_type == "Conv"}
    assert len(set(biases.values())) == 2
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    first, second = (values[name] for name in biases.values())
    assert not np.array_equal(first, second)


def test_a_model_without_a_layer_to_quantize_is_refused(write_artifact, calibration, tmp_path):
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[1, 3, 16, 16] images) => (float[1, 3] out)
        { out = ReduceMax <axes = [2, 3], keepdims = 0> (images) }
    """
    model = onnx.parser.parse_model(text)
    model.graph.node[0].name = "max"
    source = write_artifact(tmp_path / "nothing", model)
    with pytest.raises(EdgemimError, match="nothing to quantize"):
        _quantize(source, calibration, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_nncf_names_the_extra(attention_artifact, calibration, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "nncf"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgemim\[export\]'"):
        _quantize(attention_artifact, calibration, tmp_path / "out")


_PROGRAM = """
import hashlib, sys
import numpy as np, PIL.Image
from edgemim.artifact import load_artifact
from edgemim.preprocess import Preprocess
from edgemim.quantize.calibration import choose_calibration
from edgemim.quantize.quantizers import QUANTIZERS
from edgemim.runtime.targets import TARGETS

class Images:
    def __len__(self): return 8
    def encoded(self, index): return bytes([index])
    def image(self, index):
        return PIL.Image.fromarray(np.random.default_rng(index).integers(0, 256, (20, 24, 3), dtype=np.uint8))

source = load_artifact(sys.argv[1])
batches = choose_calibration(Images(), Preprocess.from_dict(source.content["preprocess"]))
target = TARGETS.get("x86")
print(QUANTIZERS.get("nncf")().quantize(source, batches, sys.argv[2], target=target).fingerprint)
telemetry = sys.modules["nncf.telemetry.wrapper"].telemetry
print(type(telemetry).__name__)
"""


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_and_send_no_telemetry(attention_artifact, tmp_path):
    outputs = [
        subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(attention_artifact.path), str(tmp_path / seed)],
            env={"PYTHONHASHSEED": seed, "PATH": "", "HOME": str(tmp_path)},
            check=True,
            capture_output=True,
            text=True,
        )
        for seed in ("1", "2")
    ]
    assert outputs[0].stdout == outputs[1].stdout
    fingerprint, telemetry = outputs[0].stdout.split()
    assert len(fingerprint) == 64
    assert telemetry != "NNCFTelemetry"
    assert outputs[0].stderr == ""
