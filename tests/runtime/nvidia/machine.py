"""Put a fake TensorRT and a fake GPU in the place of the real ones."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from edgemim.runtime.backends import tensorrt as backend
from edgemim.runtime.nvidia import cudart
from edgemim.runtime.nvidia.library import TENSORRT, TENSORRT_RTX
from tests.runtime.nvidia.fake_cudart import FakeCudart
from tests.runtime.nvidia.fake_tensorrt import fake_tensorrt


@dataclass(frozen=True)
class FakeMachine:
    """What was put there: `trt` with its `behaviour` and what was `built`, `gpu`, and the wrapper around it."""

    trt: Any
    gpu: FakeCudart
    cuda: cudart.Cuda


def fake_machine(monkeypatch: pytest.MonkeyPatch, version: str, gpu: SimpleNamespace) -> FakeMachine:
    """This version installed and nothing else, one GPU."""
    fake = FakeCudart(**vars(gpu))
    module: ModuleType = fake_tensorrt(version, fake)
    for name in (TENSORRT, TENSORRT_RTX):
        monkeypatch.setitem(sys.modules, name, module if name == module.__name__ else None)  # type: ignore[arg-type]
    cuda = cudart.Cuda(fake)
    monkeypatch.setattr(cudart, "load_cuda", lambda: cuda)
    monkeypatch.setattr(backend, "load_cuda", lambda: cuda)
    return FakeMachine(trt=module, gpu=fake, cuda=cuda)
