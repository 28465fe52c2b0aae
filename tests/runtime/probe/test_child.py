"""`edgemim.runtime.probe.child`: the memory of a GPU, of which there is only a fake here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgemim.errors import DeviceError
from edgemim.runtime.backends.tensorrt import TensorRtBackend
from edgemim.runtime.bundle import load_bundle
from edgemim.runtime.probe.child import serve
from tests.runtime.nvidia.machine import fake_machine


@pytest.fixture
def tell_all(
    world: SimpleNamespace, big_model: Callable[..., bytes], tmp_path: Path
) -> Callable[[], list[dict[str, Any]]]:
    """Serves an order for TensorRT twice, so that the second time finds the engine; what was told of that."""

    def make() -> list[dict[str, Any]]:
        bundle = load_bundle(world.bundle(encode=big_model, evaluation=None, target="jetson"))
        order = {
            "bundle": str(bundle.artifact.path),
            "backend": "tensorrt",
            "candidate": asdict(bundle.candidates[0]),
            "cache": str(tmp_path / "cache"),
            "threads": 1,
            "rebuild": False,
            "engine": None,
        }
        first: list[dict[str, Any]] = []
        serve(order, lambda message: first.append(dict(message)))
        assert [message.get("stage", "told") for message in first] == ["import", "compile", "told"]
        assert first[-1]["compiled"]["compile_peak_mb"] > 0
        told: list[dict[str, Any]] = []
        serve(order | {"engine": first[-1]["engine"]}, lambda message: told.append(dict(message)))
        return told

    return make


def test_the_memory_that_an_engine_takes_of_the_gpu_is_told(
    tell_all: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_machine(monkeypatch, "10.3.0", SimpleNamespace())
    free = iter((9_000_000_000, 8_750_000_000))
    monkeypatch.setattr(TensorRtBackend, "free_device_memory", lambda self: next(free))
    told = tell_all()
    assert [message.get("stage", "told") for message in told] == ["import", "load", "run", "told"]
    assert (told[-1]["memory"]["device_mb"], told[-1]["memory"]["device_reason"]) == (250.0, None)


def test_a_gpu_says_how_much_memory_is_free_or_that_it_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = fake_machine(monkeypatch, "10.3.0", SimpleNamespace())
    assert TensorRtBackend().free_device_memory() == machine.gpu.free_bytes
    machine.gpu.failures["cudaMemGetInfo"] = 2
    with pytest.raises(DeviceError, match="tensorrt cannot ask for the GPU's memory: cudaMemGetInfo"):
        TensorRtBackend().free_device_memory()
