"""`edgemim.runtime.backends.onnxruntime`: what only ONNX Runtime does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgemim.errors import DeviceError
from edgemim.runtime.backends import onnxruntime as module
from edgemim.runtime.bundle import Bundle

pytest.importorskip("onnxruntime", reason="needs onnxruntime")


def test_the_engine_is_the_bundles_own_file(real_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = real_bundle(evaluation=None)
    engine = module.OnnxRuntimeBackend().compile(bundle, bundle.candidates[0], tmp_path / "cache", 1)
    assert engine.file == bundle.artifact.file("fp32.onnx")
    assert (engine.folder, engine.cached) == (None, False)
    assert not (tmp_path / "cache").exists()


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_a_provider_that_was_replaced_in_silence_is_an_error(
    real_bundle: Callable[..., Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has the provider that should be missing")
    monkeypatch.setattr(module, "_PROVIDER", "CUDAExecutionProvider")
    bundle = real_bundle(evaluation=None)
    with pytest.raises(DeviceError, match=r"chose the providers \['CPUExecutionProvider'\] instead of CUDA"):
        module.OnnxRuntimeBackend().compile(bundle, bundle.candidates[0], tmp_path, 1)
