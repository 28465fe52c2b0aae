"""The plain reference of masking; one thread, since these tensors are small."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """`tests/references/masking.py`."""
    file = Path(__file__).parents[1] / "references" / "masking.py"
    spec = importlib.util.spec_from_file_location("reference_masking", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
