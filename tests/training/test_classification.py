"""A backbone under a fresh head, and the loss of a classifier."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgemim.errors import ConfigError
from edgemim.methods._base import Batch
from edgemim.models.build import build_backbone
from edgemim.models.checkpoint import Checkpoint, CheckpointInfo, load_checkpoint, save_checkpoint
from edgemim.preprocess import Preprocess
from edgemim.training.classification import Classification, classifier_from

SHAPE = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2}
RNG = torch.Generator()


def loss(logits: list[list[float]], labels: list[int], smoothing: float = 0.0) -> float:
    class Fixed(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor(logits)

    task = Classification(Fixed(), 2, label_smoothing=smoothing, mixup=0.0, cutmix=0.0)
    return float(task(Batch(torch.zeros(len(labels), 3, 4, 4), torch.tensor(labels)), RNG).loss)


def test_a_worked_example_of_the_loss() -> None:
    # Logits (0, ln 3) are probabilities 1/4 and 3/4.
    assert loss([[0.0, math.log(3)]], [1]) == pytest.approx(-math.log(3 / 4))
    both = [[0.0, math.log(3)], [0.0, math.log(3)]]
    assert loss(both, [0, 1]) == pytest.approx((-math.log(1 / 4) - math.log(3 / 4)) / 2)
    # Smoothing 0.2 of 2 classes: targets 0.1 and 0.9.
    assert loss([[0.0, math.log(3)]], [1], 0.2) == pytest.approx(-0.9 * math.log(3 / 4) - 0.1 * math.log(1 / 4))


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixing_mixes_images_and_labels(mixup: float, cutmix: float) -> None:
    seen: list[torch.Tensor] = []

    class Looks(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return torch.zeros(len(images), 3)

    task = Classification(Looks(), 3, label_smoothing=0.0, mixup=mixup, cutmix=cutmix)
    torch.manual_seed(0)
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 16, 16)
    step = task(Batch(images, torch.tensor([0, 1, 2, 0])), RNG)
    # Equal logits cost log(3) whatever the labels are, as long as these add up to one.
    assert float(step.loss) == pytest.approx(math.log(3))
    assert not torch.equal(seen[0], images)
    if not mixup:
        assert set(seen[0].unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}


def checkpoint(
    folder: Path, name: str = "vit_tiny_patch16_224", classes: int = 0, **arguments: Any
) -> tuple[Checkpoint, nn.Module]:
    torch.manual_seed(1)
    arguments = {**(SHAPE if name.startswith("vit") else {}), **arguments}
    model = build_backbone(name, arguments, num_classes=classes)
    info = CheckpointInfo(
        architecture=name, model_args=arguments, preprocess=Preprocess(size=(16, 16)), num_classes=classes
    )
    save_checkpoint(folder, model, info)
    return load_checkpoint(folder), model


def rebuilt(given: Checkpoint, arguments: Any, classes: int) -> nn.Module:
    return build_backbone(given.architecture, arguments, num_classes=classes)


def test_the_backbone_is_kept_and_head_and_pooled_norm_are_fresh(tmp_path: Path) -> None:
    given, old = checkpoint(tmp_path / "a")
    model, arguments = classifier_from(given, 4, pool="avg", drop_path=0.0)
    new, before = model.state_dict(), old.state_dict()
    fresh = {name for name in new if name not in before}
    assert fresh == {"head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias"}
    assert all(torch.equal(new[name], before[name]) for name in new if name not in fresh)
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 4)
    assert rebuilt(given, arguments, 4).state_dict().keys() == new.keys()


def test_the_class_tokens_norm_is_kept_with_it(tmp_path: Path) -> None:
    given, old = checkpoint(tmp_path / "a")
    model, _ = classifier_from(given, 4, pool="token", drop_path=0.0)
    assert torch.equal(model.norm.weight, old.norm.weight)  # type: ignore[union-attr,arg-type]
    assert model.global_pool == "token"


def test_a_head_of_its_own_is_dropped_and_its_pooled_norm_kept(tmp_path: Path) -> None:
    given, old = checkpoint(tmp_path / "a", classes=4, global_pool="avg")
    with torch.no_grad():
        given.model.fc_norm.weight.add_(1)  # type: ignore[union-attr,operator]
    model, _ = classifier_from(given, 4, pool="avg", drop_path=0.0)
    assert not torch.equal(model.head.weight, old.head.weight)  # type: ignore[union-attr,arg-type]
    assert torch.equal(model.fc_norm.weight, old.fc_norm.weight + 1)  # type: ignore[union-attr,operator,arg-type]


@pytest.mark.parametrize(("name", "head"), [("resnet10t", "fc."), ("mobilenetv3_small_050", "classifier.")])
def test_a_convnet_keeps_all_but_its_head(tmp_path: Path, name: str, head: str) -> None:
    given, old = checkpoint(tmp_path / "a", name, classes=7)
    model, arguments = classifier_from(given, 3, pool="avg", drop_path=0.0)
    before = old.state_dict()
    changed = {k.split(".")[0] + "." for k, v in model.state_dict().items() if not _same(before.get(k), v)}
    assert changed == {head}
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert "global_pool" not in arguments


def _same(left: torch.Tensor | None, right: torch.Tensor) -> bool:
    return left is not None and left.shape == right.shape and torch.equal(left, right)


def test_drop_path_is_for_training_and_not_part_of_the_checkpoint(tmp_path: Path) -> None:
    given, _ = checkpoint(tmp_path / "a")
    model, arguments = classifier_from(given, 4, pool="avg", drop_path=0.5)
    assert model.blocks[1].drop_path1.drop_prob == 0.5  # type: ignore[index,union-attr]
    assert "drop_path_rate" not in arguments


def test_drop_path_of_the_pretraining_does_not_stay_on(tmp_path: Path) -> None:
    given, _ = checkpoint(tmp_path / "a", drop_path_rate=0.3)
    model, _ = classifier_from(given, 4, pool="avg", drop_path=0.0)
    assert getattr(model.blocks[1].drop_path1, "drop_prob", 0) == 0  # type: ignore[index,union-attr]


@pytest.mark.parametrize("wrong", [{"pool": "no-such"}, {"pool": "avg", "name": "resnet10t", "drop_path": "much"}])
def test_what_the_model_refuses_is_one_line(tmp_path: Path, wrong: dict[str, Any]) -> None:
    given, _ = checkpoint(tmp_path / "a", wrong.get("name", "vit_tiny_patch16_224"))
    with pytest.raises(ConfigError, match="refuses"):
        classifier_from(given, 4, pool=wrong["pool"], drop_path=wrong.get("drop_path", 0.0))
