"""Pictures that a run draws as it goes: when, what of, and without a trace in the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from PIL import Image

from edgemim.methods._base import Method
from edgemim.preprocess import Preprocess
from edgemim.training.loop.fit import fit
from edgemim.training.pretrain import pretrain
from edgemim.training.settings.run import RunSettings
from edgemim.training.shown.drawing import DrawReconstructions

MakeMAE = Callable[..., Method]
MakeSettings = Callable[..., RunSettings]


@pytest.fixture
def settings(run_settings: MakeSettings) -> RunSettings:
    return run_settings(training={"steps": 6})


@pytest.fixture
def shown() -> torch.Tensor:
    return torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_pictures_are_drawn_as_the_run_goes_and_at_its_end(
    augmented: Callable[..., Any],
    make_mae: MakeMAE,
    settings: RunSettings,
    shown: torch.Tensor,
    contract: Preprocess,
    tmp_path: Path,
) -> None:
    draw: list[L.Callback] = [DrawReconstructions(tmp_path, {"images": shown}, contract, every=4)]
    drawn = make_mae()
    fit(drawn, augmented(24), settings, contract, run=tmp_path, title="test", callbacks=draw)
    files = sorted((tmp_path / "reconstructions").iterdir())
    assert [f.name for f in files] == ["step-000000004.png", "step-000000006.png"]
    with Image.open(files[0]) as picture:
        assert picture.width > 4 * 16
    # Drawing takes no random number of the run's, and leaves dropout on.
    plain = make_mae()
    fit(plain, augmented(24), settings, contract, run=tmp_path / "plain", title="test")
    assert drawn.training
    assert all(torch.equal(a, b) for a, b in zip(drawn.parameters(), plain.parameters(), strict=True))


def test_where_no_pixels_are_predicted_the_masks_are_shown(
    augmented: Callable[..., Any],
    make_mae: MakeMAE,
    settings: RunSettings,
    shown: torch.Tensor,
    contract: Preprocess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = make_mae()
    monkeypatch.setattr(type(method), "reconstruct", Method.reconstruct)
    draw: list[L.Callback] = [DrawReconstructions(tmp_path, {"images": shown}, contract, every=6)]
    fit(method, augmented(24), settings, contract, run=tmp_path, title="test", callbacks=draw)
    assert [f.name for f in (tmp_path / "masks").iterdir()] == ["step-000000006.png"]
    assert not (tmp_path / "reconstructions").exists()


@pytest.mark.parametrize(
    ("asked", "steps"),
    [
        # 40 images are split into 36 for training and 4, so that an epoch of batches of 6 is 6 steps.
        ({"picture_epochs": 0.5}, [3, 6, 9, 10]),
        ({"picture_epochs": 1.0}, [6, 10]),
        ({"picture_epochs": 0.5, "picture_steps": 5}, [5, 10]),
    ],
)
def test_pictures_come_by_epochs_or_by_steps(
    run_settings: MakeSettings,
    imagefolder: Callable[..., Path],
    tmp_path: Path,
    asked: dict[str, float],
    steps: list[int],
) -> None:
    data = str(imagefolder(classes=0, each=40))
    settings = run_settings(data=data, training={"steps": 10, "batch_size": 6, **asked})
    pretrain(settings, tmp_path / "run", stage="pretrain")
    drawn = sorted((tmp_path / "run" / "reconstructions").iterdir())
    assert [int(f.stem.removeprefix("step-")) for f in drawn] == steps
