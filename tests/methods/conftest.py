"""Tiny methods with random weights, biases included, and the plain reference that recomputes them.

The grid is 2 x 3, so that rows and columns cannot be confused.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.config import build
from edgemim.masking import MASKINGS
from edgemim.masking._base import MaskingStrategy
from edgemim.masking.random import RandomMasking
from edgemim.methods import METHODS
from edgemim.methods._base import Batch, Method
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone
from edgemim.models.crop_boxes import CropBoxes
from edgemim.models.teachers import Teacher, TeacherOrigin
from edgemim.preprocess import Preprocess

SIZE, PATCH = (16, 24), 8
STUDENT = {"embed_dim": 16, "depth": 4, "num_heads": 2}
TEACHER = {"embed_dim": 24, "depth": 8, "num_heads": 4}
DECODER = {"decoder_width": 16, "decoder_depth": 2, "decoder_heads": 4, "projector_width": 24, "projector_outputs": 8}
CONVNET = {
    "depths": (1, 1, 1, 1),
    "dims": (8, 8, 8, 16),
    "patch_size": 1,
}  # of stride 8: cells lie as the patches of the others do
# What a masking that is a method's only one needs on such a grid.
MASKINGS_HERE: dict[str, dict[str, Any]] = {"mixture": {"images": 3}}
TEACHER_MEAN, TEACHER_STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


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
def contract() -> Preprocess:
    return Preprocess(size=SIZE)


@pytest.fixture(scope="session")
def make_teacher(contract: Preprocess) -> Callable[..., Teacher]:
    """`make_teacher(num_classes=0, **timm arguments)`, with statistics that are not the student's."""

    def make(num_classes: int = 0, **arguments: Any) -> Teacher:
        torch.manual_seed(7)
        shape = {"img_size": SIZE, "patch_size": PATCH, **TEACHER, **arguments}
        adapter = adapt(randomise(build_backbone("vit_tiny_patch16_224", shape, num_classes=num_classes)))
        origin = TeacherOrigin(source="test", architecture="vit", licence="MIT", sha256=None)
        return Teacher(adapter, origin, mean=TEACHER_MEAN, std=TEACHER_STD, student=contract)

    return make


@pytest.fixture(scope="session")
def make_method(make_teacher: Callable[..., Teacher]) -> Callable[..., Method]:
    """`make_method(name, backbone={...}, teacher={...}, masking=..., **settings)`, in train mode.

    A method that has a decoder gets a tiny one, one for convnets a tiny ConvNeXt.
    """

    def make(
        name: str,
        backbone: dict[str, Any] | None = None,
        teacher: dict[str, Any] | None = None,
        mask_ratio: float = 0.5,
        masking: MaskingStrategy | None = None,
        **settings: Any,
    ) -> Method:
        cls = METHODS.get(name)
        torch.manual_seed(3)
        if "sparse" in cls.student_needs:
            model = build_backbone("convnext_atto", {**CONVNET, **(backbone or {})})
        else:
            shape = {"img_size": SIZE, "patch_size": PATCH, **STUDENT, **(backbone or {})}
            model = build_backbone("vit_tiny_patch16_224", shape)
        like: dict[str, Any] = {"num_classes": 5} if cls.teacher_head else {}
        like |= STUDENT if name == "selfdistill" else {}  # its teacher is an earlier run of the student
        teaches = make_teacher(**{**like, **(teacher or {})}) if cls.needs_teacher else None
        known = {f.name for f in dataclasses.fields(cls.Settings)}
        own = build(cls.Settings, {**{k: v for k, v in DECODER.items() if k in known}, **settings}, "method")
        if masking is None and cls.only_masking:
            only = cls.only_masking
            masking = build(MASKINGS.get(only), MASKINGS_HERE.get(only, {}), "masking")
        method: Method = cls(adapt(model, SIZE), masking or RandomMasking(mask_ratio=mask_ratio), own, teaches)
        randomise(method, outside="teacher.")
        method.begin()
        method.reserve(10, "0" * 64)
        return method

    return make


@pytest.fixture(scope="session")
def batch() -> Batch:
    """Two crops of three images: a left part that was mirrored, a lower right part, and the whole."""
    images, others = torch.randn(2, 3, 3, *SIZE, generator=torch.Generator().manual_seed(11))
    boxes = torch.tensor([[0.0, 0.0, 1.0, 0.5], [0.4, 0.3, 0.6, 0.7], [0.0, 0.0, 1.0, 1.0]])
    crops = CropBoxes(boxes=boxes, mirrored=torch.tensor([True, False, False]))
    index, when = torch.tensor([4, 0, 9]), {"epoch_share": 0.25, "epoch": 5.0}
    second = Batch(others, index=index, crops=crops, **when)
    return Batch(images, index=index, crops=crops, second=second, **when)


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def randomise(module: Any, outside: str = "-") -> Any:
    """Add noise to every parameter, so that no bias or norm is left at its neutral value."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not name.startswith(outside):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return module


@pytest.fixture(scope="session")
def leaves() -> Callable[..., dict[str, Tensor]]:
    """`leaves(method)`: trainable parameters by name, as float64 copies that collect gradients of their own."""

    def copy(method: Method) -> dict[str, Tensor]:
        named = method.named_parameters()
        return {k: v.detach().double().requires_grad_(v.requires_grad) for k, v in named}

    return copy


@pytest.fixture(scope="session")
def part() -> Callable[[dict[str, Tensor], str], dict[str, Tensor]]:
    """`part(state, "model.")`: the entries under a prefix, without it."""

    def cut(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    return cut


@pytest.fixture(scope="session")
def assert_same_gradients() -> Callable[..., None]:
    """Every trainable tensor of a method has the gradient of its float64 twin, but for so much of the largest entry."""

    def check(method: Method, twins: dict[str, Tensor], relative: float = 1e-5) -> None:
        for name, parameter in method.named_parameters():
            twin = twins[name].grad
            if not parameter.requires_grad or twin is None:
                assert parameter.grad is None, name
                continue
            assert parameter.grad is not None, name
            # float32 against float64: a gradient is a sum of a few thousand products with a relative error of
            # 6e-8 each; measured against the largest entry, since small ones are differences of big terms.
            error = (parameter.grad.double() - twin).abs().max()
            assert error <= relative * twin.abs().max() + 1e-12, (name, float(error), float(twin.abs().max()))

    return check
