"""Reading the fp32 flavour and writing another one beside it."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from edgemim.artifact import create_artifact, load_artifact
from edgemim.errors import ArtifactError, ConfigError, EdgemimError
from edgemim.preprocess import Preprocess
from edgemim.quantize.calibration import choose_calibration
from edgemim.quantize.flavour import NewFlavour, check_preprocess, float_flavours, read_fp32, write_flavours


@pytest.fixture
def calibration(noise_images, preprocess):
    return choose_calibration(noise_images(10), preprocess, count=4, seed=3)


def _write(artifact, out, model, calibration, overwrite=False, name="int8-same", measured=None):
    return write_flavours(
        artifact,
        out,
        [NewFlavour(name=name, model=model, base="fp32", facts={"nodes": {}})],
        calibration,
        quantizer="same",
        settings={"a": 1},
        packages=("onnx",),
        measured=measured,
        overwrite=overwrite,
    )


def test_the_new_artifact_has_everything_of_the_old_one_and_the_flavour(attention_artifact, calibration, tmp_path):
    model = read_fp32(attention_artifact)
    written = _write(attention_artifact, tmp_path / "out", model, calibration)
    assert set(written.files) == {*attention_artifact.files, "int8-same.onnx", "calibration.json"}
    for name, record in attention_artifact.files.items():
        assert written.files[name] == record
    fp32, int8 = written.content["flavours"]
    assert fp32 == attention_artifact.content["flavours"][0]
    # The model is the fp32 one, so nothing differs.
    assert int8 == {
        "name": "int8-same",
        "precision": "int8",
        "opset": 17,
        "file": "int8-same.onnx",
        "base": "fp32",
        "quantizer": "same",
        "settings": {"a": 1},
        "nodes": {},
        "golden": {"max_abs": pytest.approx(0, abs=1e-6), "cosine": pytest.approx(1)},
    }
    assert written.content["calibration"] == {"file": "calibration.json", "images": 4, "synthetic": False}
    assert json.loads(written.file("calibration.json").read_text())["seed"] == 3


def test_the_provenance_names_the_source_and_the_calibration(attention_artifact, calibration, tmp_path):
    written = _write(attention_artifact, tmp_path / "out", read_fp32(attention_artifact), calibration)
    assert [record["stage"] for record in written.provenance] == ["export", "quantize"]
    record = written.provenance[-1]
    assert record["source"] == attention_artifact.fingerprint
    assert record["calibration"]["images"] == 4
    assert "unreliable" in record["calibration"]["notes"][0]
    assert record["versions"] == {"onnx": onnx.__version__}


def test_a_flavour_of_the_same_name_is_replaced_in_place(attention_artifact, calibration, tmp_path):
    out = tmp_path / "out"
    first = _write(attention_artifact, out, read_fp32(attention_artifact), calibration)
    second = _write(first, out, read_fp32(first), calibration, overwrite=True)
    assert [flavour["name"] for flavour in second.content["flavours"]] == ["fp32", "int8-same"]
    assert load_artifact(out, "onnx").fingerprint == first.fingerprint


def test_a_second_quantizer_adds_to_what_the_first_one_wrote(attention_artifact, calibration, tmp_path):
    model = read_fp32(attention_artifact)
    first = _write(attention_artifact, tmp_path / "one", model, calibration, name="int8-a", measured={"x:input": 1})
    second = _write(first, tmp_path / "two", model, calibration, name="int8-b", measured={"y:input": 2})
    assert [flavour["name"] for flavour in second.content["flavours"]] == ["fp32", "int8-a", "int8-b"]
    assert float_flavours(second) == ["fp32"]
    record = json.loads(second.file("calibration.json").read_text())
    assert record["measured"] == {"x:input": 1, "y:input": 2}


def test_values_that_are_not_finite_are_never_written(attention_artifact, calibration, tmp_path):
    model = read_fp32(attention_artifact)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "head_weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full((5, 32), np.inf, dtype=np.float32), "head_weight"))
    with pytest.raises(EdgemimError, match="not finite"):
        _write(attention_artifact, tmp_path / "out", model, calibration)
    assert not (tmp_path / "out").exists()


def test_an_artifact_without_an_fp32_model_is_refused(tmp_path):
    with create_artifact(tmp_path / "checkpoint", "checkpoint"):
        pass
    with pytest.raises(ArtifactError, match="run: edgemim export"):
        read_fp32(load_artifact(tmp_path / "checkpoint"))


def test_a_model_with_a_larger_batch_is_refused(attention_artifact, tmp_path):
    with create_artifact(tmp_path / "two", "onnx") as draft:
        draft.copy_from(attention_artifact)
        draft.content = {**attention_artifact.content, "input": {"name": "images", "shape": [2, 3, 16, 16]}}
    with pytest.raises(ConfigError, match="takes batch 1"):
        read_fp32(load_artifact(tmp_path / "two"))


def test_images_prepared_for_another_model_are_refused(attention_artifact, noise_images):
    other = choose_calibration(noise_images(4), Preprocess(size=(16, 16), mean=(0.5, 0.5, 0.5)), count=4)
    with pytest.raises(ConfigError, match="preprocessing is not the model's"):
        check_preprocess(attention_artifact, other)
