"""Settings of a run: their ranges, the linear rule, the length of a run."""

from __future__ import annotations

from typing import Any

import pytest

from edgemim.config import build, resolved
from edgemim.errors import ConfigError
from edgemim.training.settings.augmentation import AugmentationSettings
from edgemim.training.settings.contract import ContractSettings
from edgemim.training.settings.evaluation import EvaluationSettings
from edgemim.training.settings.run import RunSettings
from edgemim.training.settings.training import TrainingSettings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "give --epochs or --steps"),
        ({"steps": -5, "epochs": 1.0}, r"training\.steps -5"),
        ({"epochs": -1.0}, r"training\.epochs -1"),
        ({"batch_size": 0}, r"training\.batch_size must be at least 1; got 0"),
        ({"warmup": 1.5}, r"training\.warmup is a share of the run, in \[0, 1\]; got 1\.5"),
        ({"layer_decay": 0.0}, r"training\.layer_decay must lie in \(0, 1\]; got 0"),
        ({"layer_decay": 1.1}, r"training\.layer_decay"),
        ({"label_smoothing": 1.0}, r"training\.label_smoothing must lie in \[0, 1\); got 1"),
        ({"betas": (0.9, 1.0)}, r"training\.betas must lie in \[0, 1\)"),
        ({"workers": -2}, r"training\.workers must be -1 \(as many as pay\) or more; got -2"),
        ({"max_unreadable": 1.0}, r"training\.max_unreadable must lie in \[0, 1\); got 1"),
        *[
            ({name: -1}, rf"training\.{name} must not be negative; got -1")
            for name in ("base_lr", "lr_batch", "min_lr", "weight_decay", "clip_grad", "save_minutes")
        ],
        ({"picture_steps": -1}, r"training\.picture_steps must not be negative; got -1"),
        ({"precision": "fp16"}, r"'training\.precision' must be one of 'fp32', 'bf16', 'fastest'; got 'fp16'"),
        ({"base_learning_rate": 1.0}, r"unknown setting 'training\.base_learning_rate'"),
    ],
)
def test_a_value_out_of_range_is_one_line(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(TrainingSettings, {"steps": 10, **wrong}, "training")


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_scale": 0.0},
        {"min_scale": 0.5, "max_scale": 0.4},
        {"max_scale": 1.5},
        {"max_aspect": 0.5},
    ],
)
def test_a_crop_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="augmentation"):
        AugmentationSettings(**wrong)


def test_seeds_and_counts_are_not_negative() -> None:
    with pytest.raises(ConfigError, match="seed must not be negative; got -1"):
        RunSettings(seed=-1, training=TrainingSettings(steps=1))
    with pytest.raises(ConfigError, match=r"evaluation\.max_images must be at least 1; got 0"):
        EvaluationSettings(max_images=0)


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        # MAE: 1.5e-4 per 256 images at batch 4096 is 2.4e-3.
        ({"base_lr": 1.5e-4, "batch_size": 4096, "lr_batch": 256}, 2.4e-3),
        ({"base_lr": 1e-3, "batch_size": 64, "lr_batch": 64}, 1e-3),
        ({"base_lr": 1e-3, "batch_size": 64, "lr_batch": 0}, 1e-3),
    ],
)
def test_the_rate_grows_with_the_batch(given: dict[str, Any], rate: float) -> None:
    assert TrainingSettings(steps=1, **given).learning_rate == pytest.approx(rate)


@pytest.mark.parametrize(
    ("given", "images", "steps"),
    [
        ({"steps": 7, "epochs": 100.0}, 1000, 7),
        ({"epochs": 2.0, "batch_size": 10}, 1000, 200),
        ({"epochs": 0.5, "batch_size": 10}, 1000, 50),
        ({"epochs": 1.0, "batch_size": 64}, 100, 2),  # 100 / 64 = 1.6, rounded
        ({"epochs": 0.001, "batch_size": 64}, 100, 1),
    ],
)
def test_the_length_of_a_run(given: dict[str, Any], images: int, steps: int) -> None:
    assert TrainingSettings(**given).total_steps(images) == steps


def test_the_contract_gets_its_size_from_the_backbone() -> None:
    contract = ContractSettings(crop_ratio=1.0, interpolation="bilinear").at((32, 48))
    assert (contract.size, contract.crop_ratio, contract.interpolation) == ((32, 48), 1.0, "bilinear")


def test_settings_survive_json_and_back(run_settings: Any) -> None:
    settings = run_settings(training={"betas": [0.8, 0.9]})
    assert build(RunSettings, resolved(settings)) == settings
