"""Which models are tried at which sizes, and with which weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from edgemim.errors import ArtifactError, ConfigError
from edgemim.models.checkpoint import load_checkpoint
from edgemim.pipeline.sweep.combinations import list_combinations
from edgemim.pipeline.sweep.settings import SweepSettings
from edgemim.pipeline.sweep.weights import weights_of


def listed(**values: Any) -> list[Any]:
    return list_combinations(SweepSettings(**{"target": "x86", **values}))


def test_the_cheapest_comes_first_and_everything_once() -> None:
    found = listed(backbones=("test_resnet", "test_efficientnet", "test_resnet"), sizes=(64, 32, 64))
    assert [c.name for c in found] == [
        "test_efficientnet at 32",
        "test_resnet at 32",
        "test_efficientnet at 64",
        "test_resnet at 64",
    ]
    assert [c.cost for c in found] == sorted(c.cost for c in found)


def test_without_sizes_each_model_has_its_own(classifier: Path) -> None:
    found = listed(backbones=("test_vit",), checkpoints=(classifier,))
    assert {c.model: c.size for c in found} == {"test_vit": (160, 160), "classifier": (32, 32)}
    assert {c.model: c.source for c in found} == {"test_vit": "random weights", "classifier": "checkpoint"}


def test_an_unknown_backbone_is_found_before_another_is_built() -> None:
    with pytest.raises(ConfigError, match=r"unknown backbone 'test_vitt'; did you mean 'test_vit'\?"):
        listed(backbones=("test_resnet", "test_vitt"))


def test_one_checkpoint_under_two_paths_counts_once_and_two_of_one_name_are_told_apart(
    classifier: Path, backbone: Path, tmp_path: Path
) -> None:
    shutil.copytree(classifier, tmp_path / "same")
    shutil.copytree(backbone, tmp_path / "elsewhere" / "classifier")
    found = listed(checkpoints=(classifier, tmp_path / "same", tmp_path / "elsewhere" / "classifier"), data="random:4")
    assert sorted(c.key for c in found) == ["classifier-2-32", "classifier-32"]


def test_a_checkpoint_that_names_no_images_is_refused_unless_there_are_some(backbone: Path, classes: Path) -> None:
    with pytest.raises(ConfigError) as error:
        listed(checkpoints=(backbone,))
    assert "does not say what it was trained on; give images with --data DATA, or --data random:64" in str(error.value)
    assert len(listed(checkpoints=(backbone,), data=str(classes))) == 1


def test_a_folder_that_is_no_checkpoint_is_refused(classes: Path) -> None:
    with pytest.raises(ArtifactError, match="is not an edgemim artifact"):
        listed(checkpoints=(classes,))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_random_weights_are_the_same_each_time_and_fit_the_size(
    name: str, small_combination: Any, tmp_path: Path
) -> None:
    one, two = (load_checkpoint(weights_of(small_combination(name, 64), tmp_path / n)) for n in ("one", "two"))
    assert one.preprocess.size == (64, 64)
    assert one.artifact.files["model.safetensors"] == two.artifact.files["model.safetensors"]
    outputs = one.model(torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    assert outputs.shape == (3, one.model.num_features)
    assert bool(torch.isfinite(outputs).all())
    # Nothing is hidden behind special values: all vectors differ from what they begin at.
    vectors = [p for p in one.model.parameters() if p.ndim <= 1]
    assert all(bool(((p != 0) & (p != 1)).all()) for p in vectors)


def test_a_size_that_a_transformer_cannot_take_is_refused(small_combination: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"VisionTransformer does not run on images of 50x50: .*patch size"):
        weights_of(small_combination("test_vit", 50), tmp_path / "w")


def test_a_checkpoint_at_its_own_size_is_taken_as_it_is(classifier: Path, tmp_path: Path) -> None:
    (combination,) = listed(checkpoints=(classifier,))
    assert weights_of(combination, tmp_path / "w") == classifier
    assert not (tmp_path / "w").exists()


def test_a_transformer_at_another_size_keeps_its_weights_and_resamples_its_positions(
    classifier: Path, tmp_path: Path
) -> None:
    (combination,) = listed(checkpoints=(classifier,), sizes=(64,))
    resized = load_checkpoint(weights_of(combination, tmp_path / "w"))
    own, now = load_checkpoint(classifier).model.state_dict(), resized.model.state_dict()
    assert resized.preprocess.size == (64, 64)
    assert resized.class_names == load_checkpoint(classifier).class_names
    assert now["pos_embed"].shape[1] == 1 + 8 * 8
    changed = [name for name in own if not torch.equal(own[name], now[name])]
    assert changed == ["pos_embed"]
    assert resized.artifact.provenance[-1]["stage"] == "resize"
    assert resized.artifact.provenance[0] == load_checkpoint(classifier).artifact.provenance[0]
