"""`edgemim.runtime.backends.openvino`: precision, static shapes, and the cache of blobs."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgemim.errors import DeviceError
from edgemim.runtime.backends import openvino as module
from edgemim.runtime.bundle import Bundle

pytest.importorskip("openvino", reason="needs openvino")

BACKEND = module.OpenVinoBackend()


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The vendor's compiled models, as they are made."""
    seen: list[Any] = []
    original = module._compile

    def remember(*arguments: Any) -> Any:
        seen.append(original(*arguments))
        return seen[-1]

    monkeypatch.setattr(module, "_compile", remember)
    return seen


def test_the_model_runs_in_f32_on_one_stream_with_the_threads_given(
    real_bundle: Callable[..., Bundle], tmp_path: Path, compiled: list[Any]
) -> None:
    bundle = real_bundle(evaluation=None)
    BACKEND.compile(bundle, bundle.candidates[0], tmp_path, 1)
    (model,) = compiled
    assert model.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert "LATENCY" in str(model.get_property("PERFORMANCE_HINT"))
    assert int(model.get_property("NUM_STREAMS")) == 1
    assert int(model.get_property("INFERENCE_NUM_THREADS")) == 1


def test_the_second_compilation_comes_from_the_cache_and_computes_the_same(
    real_bundle: Callable[..., Bundle], tmp_path: Path, compiled: list[Any]
) -> None:
    bundle = real_bundle(evaluation=None)
    first = BACKEND.compile(bundle, bundle.candidates[0], tmp_path, 1)
    second = BACKEND.compile(bundle, bundle.candidates[0], tmp_path, 1)
    assert (first.cached, second.cached) == (False, True)
    assert first.folder == second.folder
    images = {"images": bundle.golden.inputs[:1]}
    output = BACKEND.open(second).run(images)["logits"]
    assert [model.get_property("LOADED_FROM_CACHE") for model in compiled] == [False, True]
    fresh = BACKEND.compile(bundle, bundle.candidates[0], tmp_path / "other", 1)
    np.testing.assert_array_equal(output, BACKEND.open(fresh).run(images)["logits"])


def test_other_threads_are_another_engine(real_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = real_bundle(evaluation=None)
    folders = {BACKEND.compile(bundle, bundle.candidates[0], tmp_path, n).folder for n in (1, 2)}
    assert len(folders) == 2


def test_a_damaged_blob_is_compiled_again(real_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = real_bundle(evaluation=None)
    engine = BACKEND.compile(bundle, bundle.candidates[0], tmp_path, 1)
    assert engine.folder is not None
    (blob,) = engine.folder.glob("*.blob")
    data = blob.read_bytes()
    blob.write_bytes(data[: len(data) // 2])
    again = BACKEND.compile(bundle, bundle.candidates[0], tmp_path, 1)
    assert not again.cached
    (blob,) = engine.folder.glob("*.blob")
    assert len(blob.read_bytes()) > len(data) // 2
    images = {"images": bundle.golden.inputs[:1]}
    output = BACKEND.open(again).run(images)["logits"]
    np.testing.assert_allclose(output, bundle.golden.outputs[:1], atol=1e-5)


def test_dynamic_shapes_are_refused(
    real_bundle: Callable[..., Bundle], as_onnx: Callable[..., bytes], tmp_path: Path
) -> None:
    bundle = real_bundle(encode=functools.partial(as_onnx, batch="n"), evaluation=None)
    with pytest.raises(DeviceError, match="dynamic shapes, an edge engine needs static ones"):
        BACKEND.compile(bundle, bundle.candidates[0], tmp_path, 1)


_INTERRUPT_AFTER_TWO_MODELS = """
import signal, sys
from pathlib import Path
from edgemim.runtime.backends.openvino import OpenVinoBackend
from edgemim.runtime.bundle import load_bundle

bundle, backend = load_bundle(sys.argv[1]), OpenVinoBackend()
engine = backend.compile(bundle, bundle.candidates[0], Path(sys.argv[2]), 1)
first, second = backend.open(engine), backend.open(engine)
first.close()
del first
second.close()
del second
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("alive")
"""


def test_ctrl_c_after_two_models_is_python_s_own(real_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    """Two Cores with overlapping lives left a wrong signal stack behind: the next signal was a crash."""
    path = real_bundle(evaluation=None).artifact.path
    command = [sys.executable, "-c", _INTERRUPT_AFTER_TWO_MODELS, str(path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr
