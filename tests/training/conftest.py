"""Runs of a few steps with tiny models, on the digits (decoded once, into a cache of the tests) or on noise."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from edgemim.config import build, merge
from edgemim.masking.random import RandomMasking
from edgemim.methods._base import Method
from edgemim.methods.mae import MAE, MAESettings
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone
from edgemim.preprocess import Pixels, Preprocess
from edgemim.training.feed.augmentation import Augmentation
from edgemim.training.feed.images import AugmentedImages
from edgemim.training.loop.fit import Fitted, fit
from edgemim.training.pretrain import pretrain
from edgemim.training.settings.augmentation import AugmentationSettings
from edgemim.training.settings.run import RunSettings
from tests.data.conftest import encode  # noqa: F401  (a fixture)
from tests.data.streams.conftest import write_parquet, write_tar  # noqa: F401  (fixtures)

# Dropout and drop path on: a resumed run has to draw the same numbers.
BACKBONE = {
    "img_size": 16,
    "patch_size": 4,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "drop_path_rate": 0.3,
    "proj_drop_rate": 0.2,
}
DECODER = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
RUN: dict[str, Any] = {
    "data": "digits",
    "backbone": {"name": "vit_tiny_patch16_224", **BACKBONE},
    "method": {"name": "mae", **DECODER},
    "training": {"steps": 6, "batch_size": 8, "precision": "fp32", "base_lr": 1e-2, "lr_batch": 0, "warmup": 0.2},
    "evaluation": {"probe": "none"},
    "deterministic": True,
}
CONTRACT = Preprocess(size=(16, 16))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", autouse=True)
def _private_caches(cache_folder: Path) -> Iterator[None]:
    """The digits are decoded once for all tests here; the user's own caches are left alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache_folder))
        patch.setenv("HF_HOME", str(cache_folder / "huggingface"))
        patch.delenv("HF_DATASETS_CACHE", raising=False)
        yield


@pytest.fixture(autouse=True)
def _deterministic_kernels_only_inside() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def run_values() -> Callable[..., dict[str, Any]]:
    """`run_values(training={"steps": 3})`: the values of a tiny run, some of them others."""
    return lambda **over: merge(RUN, over)


@pytest.fixture(scope="session")
def run_settings() -> Callable[..., RunSettings]:
    """`run_settings(training={"steps": 3})`: the settings of a tiny run, some of them others."""
    return lambda **over: build(RunSettings, merge(RUN, over))


@pytest.fixture(scope="session")
def contract() -> Preprocess:
    return CONTRACT


class Noise:
    """Images of two sizes full of seeded noise, in memory."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(0)
        sizes = [(16, 16), (20, 24)]
        self.images = [rng.integers(0, 256, (*sizes[i % 2], 3), dtype=np.uint8) for i in range(count)]

    def __len__(self) -> int:
        return len(self.images)

    def get(self, i: int) -> Pixels:
        return self.images[i]


@pytest.fixture(scope="session")
def noise() -> Callable[[int], Noise]:
    return Noise


@pytest.fixture(scope="session")
def augmented() -> Callable[..., AugmentedImages]:
    """`augmented(24)`: noise with labels, cropped and flipped."""

    def make(count: int = 24, seed: int = 0) -> AugmentedImages:
        augmentation = Augmentation(size=(16, 16), settings=AugmentationSettings(), seed=seed)
        return AugmentedImages(Noise(count), np.arange(count) % 3, augmentation)

    return make


@pytest.fixture(scope="session")
def make_mae() -> Callable[..., Method]:
    """`make_mae(seed=0)`: the tiny MAE, in train mode."""

    def make(seed: int = 0) -> Method:
        torch.manual_seed(seed)
        adapter = adapt(build_backbone("vit_tiny_patch16_224", BACKBONE))
        adapter.initialise()
        return MAE(adapter, RandomMasking(), MAESettings(**DECODER))

    return make


class SignalAt(L.Callback):
    """Sends this process a signal at the end of a step."""

    def __init__(self, step: int, number: int) -> None:
        self.step = step
        self.number = number

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            signal.raise_signal(self.number)


@pytest.fixture(scope="session")
def signal_at() -> type[SignalAt]:
    return SignalAt


@pytest.fixture(scope="session")
def train(augmented: Callable[..., AugmentedImages]) -> Callable[..., Fitted]:
    """`train(task, settings, run, images=24, stop_at=None, resume=False)`: `fit` on noise."""

    def call(
        task: nn.Module,
        settings: RunSettings,
        run: Path,
        *,
        images: int = 24,
        stop_at: int | None = None,
        number: int = signal.SIGINT,
        resume: bool = False,
    ) -> Fitted:
        callbacks = [] if stop_at is None else [SignalAt(stop_at, number)]
        return fit(
            task, augmented(images), settings, CONTRACT, run=run, title="test", resume=resume, callbacks=callbacks
        )

    return call


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, run_settings: Callable[..., RunSettings]) -> Path:
    """A finished run of `mae`; its statistics are not the students'."""
    out = tmp_path_factory.mktemp("runs") / "teacher"
    settings = run_settings(
        backbone={"embed_dim": 24, "num_heads": 3, "depth": 4},
        preprocess={"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        evaluation={"probe": "both"},
    )
    result = pretrain(settings, out, stage="pretrain")
    assert result["steps"] == 6
    return out


@pytest.fixture
def imagefolder(tmp_path: Path) -> Callable[..., Path]:
    """`imagefolder("train", classes=2, each=6)`: PNG files, labelled by folder, or unlabelled with no class."""

    def write(name: str = "images", classes: int = 2, each: int = 6, side: int = 16) -> Path:
        rng = np.random.default_rng(0)
        for label in range(max(classes, 1)):
            folder = tmp_path / name / (f"class{label}" if classes else "")
            folder.mkdir(parents=True)
            for i in range(each):
                pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
        return tmp_path / name

    return write
