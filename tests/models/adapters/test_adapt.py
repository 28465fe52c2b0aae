"""Which adapter drives which timm model."""

from __future__ import annotations

from typing import Any

import pytest

from edgemim.models.adapters import adapt
from edgemim.models.adapters.beit import BeitAdapter
from edgemim.models.adapters.conv import ConvAdapter
from edgemim.models.adapters.general import GeneralAdapter
from edgemim.models.adapters.swin import SwinAdapter
from edgemim.models.adapters.vit import ViTAdapter
from edgemim.models.build import build_backbone

TINY = {"embed_dim": 24, "depth": 1, "num_heads": 2}
STAGES = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}

CASES: list[tuple[str, dict[str, Any], type]] = [
    ("vit_tiny_patch16_224", TINY, ViTAdapter),
    ("deit3_small_patch16_224", TINY, ViTAdapter),
    ("vit_small_patch14_reg4_dinov2", TINY, ViTAdapter),
    ("beitv2_base_patch16_224", TINY, BeitAdapter),
    ("swin_tiny_patch4_window7_224", STAGES, SwinAdapter),
    # Subclasses and relatives whose blocks or tokens differ.
    ("deit_tiny_distilled_patch16_224", TINY, GeneralAdapter),
    ("eva02_tiny_patch14_224", TINY, GeneralAdapter),
    ("swinv2_tiny_window8_256", STAGES, GeneralAdapter),
    ("test_resnet", {}, ConvAdapter),
]


@pytest.mark.parametrize(("name", "arguments", "kind"), CASES, ids=[name for name, _, _ in CASES])
def test_each_family_has_its_adapter_and_the_rest_the_general_one(
    name: str, arguments: dict[str, Any], kind: type
) -> None:
    assert type(adapt(build_backbone(name, arguments))) is kind


def test_the_size_is_for_models_that_take_any() -> None:
    assert adapt(build_backbone("test_resnet"), (64, 96)).size == (64, 96)
    assert adapt(build_backbone("test_resnet")).size == (160, 160)  # timm's own
    assert adapt(build_backbone("vit_tiny_patch16_224", TINY), (64, 96)).size == (224, 224)
