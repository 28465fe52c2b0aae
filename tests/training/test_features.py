"""Outputs of a model for many images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edgemim.models.build import build_backbone
from edgemim.preprocess import Preprocess
from edgemim.training.features import normalised_batches, outputs, patch_features, spread


def test_batches_are_those_of_the_evaluation_transform(noise: Callable[[int], Any], contract: Preprocess) -> None:
    images = noise(5)
    (batch,) = normalised_batches(images, contract, range(5))
    pixels = np.stack([contract.pixels(Image.fromarray(images.get(i))) for i in range(5)])
    assert np.array_equal(batch.numpy(), contract.normalise(pixels))


def test_outputs_are_in_the_order_of_the_set(noise: Callable[[int], Any], contract: Preprocess) -> None:
    images = noise(300)  # more than one batch
    means = outputs(lambda x: x.mean(dim=(2, 3)), images, contract)
    assert means.shape == (300, 3)
    for i in (0, 1, 255, 256, 299):
        expected = contract.normalise(contract.pixels(Image.fromarray(images.get(i)))[None]).mean(axis=(2, 3))[0]
        np.testing.assert_allclose(means[i].numpy(), expected, rtol=1e-4, atol=1e-6)
    some = outputs(lambda x: x.mean(dim=(2, 3)), images, contract, range(1, 300, 7))
    torch.testing.assert_close(some, means[1:300:7])


@pytest.mark.parametrize(("images", "most", "step"), [(10, 10, 1), (10, 20, 1), (10, 5, 2), (10, 4, 3), (10, 1, 10)])
def test_a_part_of_the_set_is_spread_over_all_of_it(images: int, most: int, step: int) -> None:
    rows = spread(images, most)
    assert rows == range(0, images, step)
    assert len(rows) <= most


def test_a_part_of_a_set_sorted_by_class_has_every_class() -> None:
    labels = np.repeat(np.arange(10), 5000)  # 50,000 images, as a folder per class gives them
    assert set(labels[spread(50_000, 10_000)]) == set(range(10))


@pytest.mark.parametrize("prefix", [{}, {"reg_tokens": 3}])
def test_features_of_a_vit_are_the_mean_of_its_patches(prefix: dict[str, int]) -> None:
    shape = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2}
    model = build_backbone("vit_tiny_patch16_224", {**shape, **prefix}).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        tokens = model.forward_features(images)  # type: ignore[operator]
        first = 1 + prefix.get("reg_tokens", 0)
        torch.testing.assert_close(patch_features(model)(images), tokens[:, first:].mean(dim=1))


def test_features_of_a_convnet_are_the_mean_of_its_map() -> None:
    model = build_backbone("resnet10t").eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model.forward_features(images).mean(dim=(2, 3))  # type: ignore[operator]
        torch.testing.assert_close(patch_features(model)(images), expected)


def test_features_of_a_staged_transformer_are_the_mean_of_its_map_with_channels_last() -> None:
    shape = {"img_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2}
    model = build_backbone("swin_tiny_patch4_window7_224", shape).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        features = patch_features(model)(images)
        tokens = model.forward_features(images)  # type: ignore[operator]
    assert tokens.shape == (2, 4, 4, 16)
    # What timm's own classifier would see.
    torch.testing.assert_close(features, model.forward_head(tokens, pre_logits=True))  # type: ignore[operator]


def test_features_are_taken_without_dropout(noise: Callable[[int], Any], contract: Preprocess) -> None:
    shape = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2, "proj_drop_rate": 0.9}
    model = build_backbone("vit_tiny_patch16_224", shape).train()
    features = patch_features(model)
    assert torch.equal(outputs(features, noise(4), contract), outputs(features, noise(4), contract))
