"""An artifact whose graphs take several images per run."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgemim.errors import ConfigError
from edgemim.export.batch import fix_batch
from edgemim.export.parity import run_onnx
from edgemim.export.pixels import accept_pixels


@pytest.mark.parametrize("batch", [2, 5])
def test_the_golden_outputs_come_from_batches_too(exported_tokens, out, batch):
    artifact = fix_batch(exported_tokens, out, batch=batch)
    model = onnx.load(artifact.file("fp32.onnx"))
    onnx.checker.check_model(model, full_check=True)
    load = {name: np.load(artifact.file(f"golden/{name}.npy")) for name in ("inputs", "outputs", "tokens")}
    for name, key in (("logits", "outputs"), ("tokens", "tokens")):
        found = run_onnx(artifact.file("fp32.onnx"), load["inputs"], output=name)
        np.testing.assert_allclose(found, load[key], rtol=0, atol=1e-5 * np.abs(load[key]).max())
    content = artifact.content
    assert content["input"]["shape"] == [batch, 3, 32, 32]
    assert content["output"]["shape"] == [batch, 10]
    assert content["tokens"]["shape"] == [batch, 16, 64]
    assert artifact.provenance[-1]["stage"] == "batch"
    assert artifact.provenance[-1]["settings"] == {"batch": batch}


def test_pixels_and_batch_go_together(exported_tokens, tmp_path):
    artifact = accept_pixels(fix_batch(exported_tokens, tmp_path / "batch", batch=2), tmp_path / "pixels")
    assert artifact.content["input"]["shape"] == [2, 32, 32, 3]
    pixels, outputs = (np.load(artifact.file(f"golden/{name}.npy")) for name in ("pixels", "outputs"))
    np.testing.assert_allclose(run_onnx(artifact.file("fp32.onnx"), pixels), outputs, rtol=0, atol=1e-5)


def test_a_batch_below_one_is_refused(exported_tokens, out):
    with pytest.raises(ConfigError, match="batch must be at least 1; got 0"):
        fix_batch(exported_tokens, out, batch=0)


def test_several_images_per_run_cannot_be_changed_again(exported_tokens, tmp_path):
    artifact = fix_batch(exported_tokens, tmp_path / "two", batch=2)
    with pytest.raises(ConfigError, match="takes 2 images per run already; export it again with --batch 4"):
        fix_batch(artifact, tmp_path / "four", batch=4)
