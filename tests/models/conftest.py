"""Tiny timm models with random weights, biases included, and plain references for what they compute."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from edgemim.models.build import build_backbone
from edgemim.preprocess import Preprocess

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def reference() -> Callable[[str], ModuleType]:
    """`reference("positions")`: a module of `tests/references/`."""

    def load(name: str) -> ModuleType:
        file = Path(__file__).parents[1] / "references" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"reference_{name}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def make_model() -> Callable[..., nn.Module]:
    """`make_model(name, num_classes=0, **arguments)`: every parameter random, in eval mode."""

    def make(name: str = "vit_tiny_patch16_224", num_classes: int = 0, seed: int = 0, **arguments: Any) -> nn.Module:
        torch.manual_seed(seed)
        model = build_backbone(
            name, TINY | arguments if name.startswith(("vit", "deit3")) else arguments, num_classes=num_classes
        ).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        return model

    return make


@pytest.fixture(scope="session")
def tiny_arguments() -> dict[str, Any]:
    return dict(TINY)


@pytest.fixture(scope="session")
def contract() -> Preprocess:
    return Preprocess(size=(32, 32))


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
