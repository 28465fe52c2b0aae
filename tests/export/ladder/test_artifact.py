"""Which artifacts have a ladder; what it shows of real ones is tested with `edgemim inspect --parity`."""

from __future__ import annotations

import numpy as np
import pytest

from edgemim.artifact import create_artifact, load_artifact
from edgemim.errors import ArtifactError
from edgemim.export.ladder.artifact import climb_artifact


def test_an_artifact_without_an_fp32_flavour_is_refused(out):
    golden = {"inputs": "inputs.npy", "pixels": "pixels.npy", "outputs": "outputs.npy"}
    with create_artifact(out, "onnx") as draft:
        for name in golden.values():
            np.save(draft.path(name), np.zeros((1, 2)))
        draft.path("half.onnx").write_bytes(b"never read")
        draft.content = {"golden": golden, "flavours": [{"name": "half", "precision": "fp16", "file": "half.onnx"}]}
    with pytest.raises(ArtifactError, match=r"has no fp32 flavour .* only half; export it again"):
        climb_artifact(load_artifact(out))


def test_a_checkpoint_has_no_ladder(checkpoint_artifact):
    with pytest.raises(ArtifactError, match="is a checkpoint; parity is that of an onnx artifact or a bundle"):
        climb_artifact(checkpoint_artifact)
