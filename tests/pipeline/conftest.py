"""Labelled images and a small classifier that was fine-tuned on them, with another seed than the default."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SEED = 5
BACKBONE = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


@pytest.fixture(scope="session", autouse=True)
def private_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Every cache (decoded images, engines, datasets) in a folder of this session."""
    folder = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setenv("HF_HOME", str(folder / "hf"))
        yield folder


@pytest.fixture(scope="session")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageFolder of 2 classes with 20 different images each: horizontal and vertical stripes with noise."""
    folder = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(0)
    stripes = np.where(np.arange(36) % 8 < 4, 60, 190)
    for i in range(40):
        name = ("rows", "columns")[i % 2]
        pattern = np.broadcast_to(stripes[:, None] if name == "rows" else stripes[None], (36, 36))
        noisy = np.clip(pattern[..., None] + rng.normal(0, 40, (36, 36, 3)), 0, 255).astype(np.uint8)
        (folder / name).mkdir(exist_ok=True)
        Image.fromarray(noisy).save(folder / name / f"{i:02}.png")
    return folder


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of a backbone with random weights, that does not say what it was trained on."""
    from edgemim.models.build import build_backbone
    from edgemim.models.checkpoint import CheckpointInfo, save_checkpoint
    from edgemim.preprocess import Preprocess

    out = tmp_path_factory.mktemp("checkpoints") / "backbone"
    contract = Preprocess(size=(32, 32), crop_ratio=1.0)
    info = CheckpointInfo(architecture="vit_tiny_patch16_224", model_args=BACKBONE, preprocess=contract)
    save_checkpoint(out, build_backbone(info.architecture, BACKBONE), info)
    return out


@pytest.fixture(scope="session")
def classifier(backbone: Path, classes: Path) -> Path:
    """The backbone, fine-tuned for two steps with the seed 5."""
    from edgemim.config import build
    from edgemim.training.finetune import FinetuneSettings, finetune

    values = {"data": str(classes), "init": str(backbone), "seed": SEED, "training": {"steps": 2, "batch_size": 8}}
    finetune(build(FinetuneSettings, values), backbone.with_name("classifier"))
    return backbone.with_name("classifier")
