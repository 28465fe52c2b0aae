"""Backbones by name: the list is read without torch, a wrong name or argument is one line."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from edgemim.errors import ConfigError
from edgemim.models.build import backbone_names, build_backbone, input_size


def test_the_list_is_timms_own() -> None:
    names = backbone_names()
    assert list(names) == sorted(timm.list_models())
    assert names["vit_tiny_patch16_224"] == "vision_transformer"
    assert names["resnet18"] == "resnet"


def test_listing_does_not_import_torch() -> None:
    code = (
        "import sys\nfrom edgemim.models.build import backbone_names\n"
        "print(len(backbone_names()), 'torch' in sys.modules, 'timm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, *imported = done.stdout.split()
    assert int(count) > 1000
    assert imported == ["False", "False"]


def test_a_backbone_has_no_head_unless_classes_are_given(tiny_arguments: dict[str, Any]) -> None:
    assert build_backbone("vit_tiny_patch16_224", tiny_arguments).num_classes == 0
    assert build_backbone("vit_tiny_patch16_224", tiny_arguments, num_classes=7).head.out_features == 7  # type: ignore[union-attr]


def test_lists_of_a_recipe_become_tuples(tiny_arguments: dict[str, Any]) -> None:
    model: Any = build_backbone("vit_tiny_patch16_224", tiny_arguments | {"img_size": [16, 24]})
    assert model.patch_embed.grid_size == (2, 3)


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown backbone 'vit_tinny_patch16_224'; did you mean 'vit_tiny_patch16_224'"
    ):
        build_backbone("vit_tinny_patch16_224")


@pytest.mark.parametrize(
    "wrong",
    [
        {"no_such": 1},
        {"num_heads": 5},
        {"num_heads": 0},
        {"patch_size": 0},
        {"embed_dim": -8},
        {"img_size": "big"},
        {"global_pool": "none-such"},
        {"class_token": False},  # while the pooling is that of the class token
        {"act_layer": "none-such"},
    ],
)
def test_wrong_arguments_are_one_line_that_names_them(tiny_arguments: dict[str, Any], wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="backbone 'vit_tiny_patch16_224' refuses") as caught:
        build_backbone("vit_tiny_patch16_224", tiny_arguments | wrong)
    assert next(iter(wrong)) in str(caught.value)
    assert "\n" not in str(caught.value)


class Code:
    """Pickles to a call that makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("name", ["checkpoint_path", "pretrained", "pretrained_cfg", "num_classes", "cache_dir"])
def test_no_argument_loads_weights(tiny_arguments: dict[str, Any], tmp_path: Path, name: str) -> None:
    file, proof = tmp_path / "weights.pth", tmp_path / "code-ran"
    file.write_bytes(pickle.dumps(Code(proof)))
    with pytest.raises(ConfigError, match=f"'{name}' is not an argument of a backbone"):
        build_backbone("vit_tiny_patch16_224", tiny_arguments | {name: str(file)})
    assert not proof.exists()


def test_the_size_comes_from_the_model_or_its_arguments(tiny_arguments: dict[str, Any]) -> None:
    assert input_size(build_backbone("vit_tiny_patch16_224", tiny_arguments), tiny_arguments) == (32, 32)
    wide = tiny_arguments | {"img_size": (16, 24)}
    assert input_size(build_backbone("vit_tiny_patch16_224", wide), wide) == (16, 24)
    assert input_size(build_backbone("resnet18"), {}) == (224, 224)
    assert input_size(build_backbone("resnet18"), {"img_size": 64}) == (64, 64)


def test_weights_depend_on_the_global_generator_alone(tiny_arguments: dict[str, Any]) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return build_backbone("vit_tiny_patch16_224", tiny_arguments).blocks[0].attn.qkv.weight  # type: ignore[index,union-attr]

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
