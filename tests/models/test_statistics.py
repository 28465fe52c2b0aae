"""Statistics of images, where a file does not say them."""

from __future__ import annotations

from typing import Any

import pytest

from edgemim.errors import ConfigError
from edgemim.models.statistics import given_statistics, statistics_of, statistics_of_file
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD

IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# What the authors of CLIP normalise by.
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def test_a_config_says_its_own_or_none() -> None:
    assert statistics_of({"mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0]}) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert statistics_of({}) == statistics_of({"mean": None}) == IMAGENET


def test_the_settings_say_both_or_neither() -> None:
    assert given_statistics({"backbone": "x"}) is None
    assert given_statistics({"mean": [0.5, 0, 1], "std": (1, 0.5, 2)}) == ((0.5, 0.0, 1.0), (1.0, 0.5, 2.0))


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("vit_base_patch16_224", IMAGENET),  # timm's weights have three different ones, MAE's among them
        ("vit_large_patch16_224", IMAGENET),
        ("vit_base_patch16_224.augreg_in21k", HALF),
        ("vit_base_patch16_224.mae", IMAGENET),
        ("vit_base_patch16_clip_224", CLIP),
        ("vit_large_patch14_clip_224.openai", CLIP),
        ("vit_large_patch14_clip_224.laion2b", HALF),
        ("vit_small_patch14_reg4_dinov2", IMAGENET),
        ("vit_base_patch16_siglip_224", HALF),
        ("vit_small_patch8_224", IMAGENET),
        ("no_such_architecture", IMAGENET),
    ],
)
def test_a_file_has_those_of_its_tag_or_what_is_known_of_its_architecture(named: str, found: Any) -> None:
    assert statistics_of_file(named) == found


def test_an_architecture_whose_weights_differ_is_asked_about() -> None:
    message = r"weights of vit_large_patch14_clip_224 differ in it; set teacher\.mean and teacher\.std, or name a tag"
    with pytest.raises(ConfigError, match=message):
        statistics_of_file("vit_large_patch14_clip_224")


def test_an_unknown_tag_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown tag 'augreg_in21' in .*; did you mean 'augreg_in21k'"):
        statistics_of_file("vit_base_patch16_224.augreg_in21")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mean": [0.5, 0.5, 0.5]}, r"teacher\.std is a list of three numbers; got None"),
        ({"std": [0.5, 0.5, 0.5]}, r"teacher\.mean is a list of three numbers; got None"),
        ({"mean": [0.5, 0.5], "std": [1, 1, 1]}, r"teacher\.mean is a list of three numbers; got \[0\.5, 0\.5\]"),
        ({"mean": "0.5", "std": [1, 1, 1]}, r"teacher\.mean is a list of three numbers; got '0\.5'"),
        ({"mean": [0.5, 0.5, True], "std": [1, 1, 1]}, r"teacher\.mean is a list of three numbers"),
        ({"mean": [0.5, 0.5, 0.5], "std": [1, 0, 1]}, r"teacher\.std must be positive"),
    ],
)
def test_what_are_no_statistics_is_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        given_statistics(given)
