"""`--cache-teacher` from the command line: what it says, what it leaves behind, what it refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgemim.models.checkpoint import load_checkpoint

TINY = ("embed_dim=16", "depth=2", "num_heads=2", "patch_size=8", "img_size=32")
TWO_VIEWS = ("--set", "augmentation.views=2")


@pytest.fixture(scope="module")
def made(cli: Any, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A folder of noise, an MAE of it, and the words of a command that distils it."""
    folder = tmp_path_factory.mktemp("cached")
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / "images" / f"{i:02d}.png")
    data = ["--data", folder / "images", "--steps", 6, "--batch-size", 8]
    tiny = [word for value in TINY for word in ("--set", f"backbone.{value}")]
    decoder = ["--set", "method.decoder_width=16", "--set", "method.decoder_depth=1"]
    done = cli("pretrain", "--recipe", "mae-small", *data, *tiny, *decoder, "--out", folder / "teacher")
    assert done.code == 0, done.err
    return SimpleNamespace(words=["distill", *data, *tiny, "--teacher", folder / "teacher", "--cache-teacher"])


def test_the_second_run_finds_what_the_first_stored(cli: Any, made: SimpleNamespace, tmp_path: Path) -> None:
    words = [*made.words, "--recipe", "feature-small", *TWO_VIEWS]
    first = cli(*words, "--out", tmp_path / "first")
    assert first.code == 0, first.err
    assert "to be made" in first.err
    assert "teacher looks at images 36/36" in first.err  # 18 for training, two views of each
    second = cli(*words, "--out", tmp_path / "second")
    assert second.code == 0, second.err
    assert "all there" in second.err
    assert "teacher looks" not in second.err
    kept = [load_checkpoint(tmp_path / name).artifact for name in ("first", "second")]
    assert kept[0].files["model.safetensors"] == kept[1].files["model.safetensors"]
    assert kept[0].provenance[-1]["teacher_cache"] == kept[1].provenance[-1]["teacher_cache"]


@pytest.mark.parametrize(
    ("recipe", "views", "message"),
    [
        ("dmae-small", TWO_VIEWS, "method 'dmae' cannot have a cached teacher"),
        ("feature-small", (), "a cached teacher needs crops that come again"),
    ],
)
def test_a_refusal_is_one_line(
    cli: Any, made: SimpleNamespace, tmp_path: Path, recipe: str, views: tuple[str, ...], message: str
) -> None:
    done = cli(*made.words, "--recipe", recipe, *views, "--out", tmp_path / "out")
    assert done.code == 2
    (line,) = done.err.strip().splitlines()
    assert line.startswith(f"edgemim: {message}")
    assert not (tmp_path / "out").exists()
