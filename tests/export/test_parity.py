"""The comparison of ONNX Runtime with torch, on a model that doubles the mean of each channel."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest

from edgemim.errors import EdgemimError, MissingDependencyError
from edgemim.export.parity import check_parity, run_onnx


def _doubling(batch: int = 1) -> bytes:
    text = f"""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[{batch}, 3, 2, 2] images) => (float[{batch}, 3] out) <float two = {{2.0}}>
        {{ mean = ReduceMean <axes = [2, 3], keepdims = 0> (images)  out = Mul (mean, two) }}
    """
    return onnx.parser.parse_model(text).SerializeToString()


@pytest.fixture
def images():
    return np.random.default_rng(0).standard_normal((5, 3, 2, 2)).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_any_number_of_images_runs_through_any_fixed_batch(images, batch):
    np.testing.assert_allclose(run_onnx(_doubling(batch), images), 2 * images.mean((2, 3)), atol=1e-6)


def test_equal_outputs_pass_and_the_difference_is_reported(images):
    expected = 2 * images.mean((2, 3))
    expected[1, 2] += 5e-5
    parity = check_parity(_doubling(), images, expected)
    assert parity.max_abs == pytest.approx(5e-5, rel=0.05)
    assert parity.tolerance == pytest.approx(1e-4 * max(1, np.abs(expected).max()))


def test_the_tolerance_grows_with_outputs_above_one(images):
    # 2 * 100 * mean: a difference of 1e-3 is 1e-5 of a largest output above 100.
    images = images * 100
    expected = 2 * images.mean((2, 3))
    assert np.abs(expected).max() > 100
    assert check_parity(_doubling(), images, expected + 1e-3).tolerance > 1e-2
    with pytest.raises(EdgemimError, match="limit"):
        check_parity(_doubling(), images, expected + 1)


def test_a_difference_names_image_output_and_both_values(images):
    expected = 2 * images.mean((2, 3))
    expected[3, 1] = 7
    with pytest.raises(EdgemimError, match=r"1 of 15 outputs over it; at golden image 3, output 1: .* torch 7$"):
        check_parity(_doubling(), images, expected)


def test_a_value_that_is_not_a_number_fails(images):
    images[2, 0, 0, 0] = np.nan
    expected = np.zeros((5, 3), dtype=np.float32)
    with pytest.raises(EdgemimError, match="at golden image 2, output 0"):
        check_parity(_doubling(), images, expected)


_TWO_OUTPUTS = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[2, 3, 2, 2] images) => (float[2, 3] out, float[2, 3, 4] tokens)
    { out = ReduceMean <axes = [2, 3], keepdims = 0> (images)  tokens = Reshape (images, shape) }
"""


def _two_outputs() -> bytes:
    model = onnx.parser.parse_model(_TWO_OUTPUTS)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 3, 4]), "shape"))
    return model.SerializeToString()


def test_the_first_output_is_the_default_and_others_have_names(images):
    np.testing.assert_allclose(run_onnx(_two_outputs(), images), images.mean((2, 3)), atol=1e-6)
    np.testing.assert_array_equal(run_onnx(_two_outputs(), images, output="tokens"), images.reshape(5, 3, 4))


def test_a_difference_of_tokens_names_the_place_in_full(images):
    expected = images.reshape(5, 3, 4).copy()
    expected[4, 2, 1] = 7
    with pytest.raises(EdgemimError, match=r"1 of 60 outputs over it; at golden image 4, output 2, 1: .* torch 7$"):
        check_parity(_two_outputs(), images, expected, output="tokens")


def test_another_shape_fails(images):
    with pytest.raises(EdgemimError, match=r"shape \(5, 3\), torch \(5, 4\)"):
        check_parity(_doubling(), images, np.zeros((5, 4), dtype=np.float32))


def test_a_missing_onnxruntime_names_the_extra(images, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgemim\[export\]'"):
        run_onnx(_doubling(), images)
