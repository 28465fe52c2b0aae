"""A machine with one fake GPU and a fake TensorRT of a chosen version."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from tests.runtime.nvidia.machine import FakeMachine, fake_machine


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeMachine]:
    """`machine("10.3.0")`: from here on that version is installed, and a fake GPU is there."""
    return lambda version, **gpu: fake_machine(monkeypatch, version, SimpleNamespace(**gpu))
