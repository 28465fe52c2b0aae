"""A run over images of which a few cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgemim.data.open import open_images
from edgemim.errors import DataError
from edgemim.models.checkpoint import load_checkpoint
from edgemim.training.feed.augmentation import Augmentation
from edgemim.training.feed.images import AugmentedImages
from edgemim.training.feed.inputs import OnTheFly
from edgemim.training.feed.unreadable import FILE, Readable, Unreadable
from edgemim.training.loop.fit import Fitted, fit
from edgemim.training.pretrain import pretrain
from edgemim.training.settings.augmentation import AugmentationSettings
from edgemim.training.settings.run import RunSettings

MakeSettings = Callable[..., RunSettings]
# Python 3.12 and later warn of a fork in a process with threads, which is how torch starts its workers.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture
def photos(imagefolder: Callable[..., Path]) -> Path:
    """Twenty training images, two of them broken, and four test images."""
    folder = imagefolder("photos/train", classes=2, each=10)
    imagefolder("photos/test", classes=2, each=2)
    for name in ("class0/4.png", "class1/7.png"):
        (folder / name).write_bytes((folder / name).read_bytes()[:100])
    return folder.parent


def test_it_goes_on_without_them_and_names_them(
    photos: Path, tmp_path: Path, run_settings: MakeSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = run_settings(data=str(photos), training={"max_unreadable": 0.1})
    pretrain(settings, tmp_path / "out", stage="pretrain")
    lines = (tmp_path / "out" / FILE).read_text().splitlines()
    assert len(lines) == 2
    assert "class0/4.png" in lines[0]
    said = [line for line in capsys.readouterr().err.splitlines() if "unreadable.txt" in line]
    assert len(said) == 1
    assert said[0].startswith("skipped 2 of 20 images, which cannot be read: ")
    assert "class1/7.png" in said[0]
    stage = load_checkpoint(tmp_path / "out").artifact.provenance[-1]
    assert stage["result"]["unreadable"] == 2


def test_too_many_are_found_before_anything_is_written(
    photos: Path, tmp_path: Path, run_settings: MakeSettings
) -> None:
    settings = run_settings(data=str(photos), training={"max_unreadable": 0.05})
    with pytest.raises(DataError, match=r"2 of the 20 images of .* training\.max_unreadable 0\.05 allows 1: "):
        pretrain(settings, tmp_path / "out", stage="pretrain")
    assert not (tmp_path / "out").exists()


def on_the_fly(photos: Path, share: float = 0.1) -> AugmentedImages:
    images = open_images(str(photos), split="train")
    unreadable = Unreadable(name="photos", images=len(images), share=share)
    augmentation = Augmentation(size=(16, 16), settings=AugmentationSettings(), seed=0)
    return AugmentedImages(Readable(OnTheFly(images), unreadable), None, augmentation)


@pytest.fixture
def run(
    photos: Path, tmp_path: Path, run_settings: MakeSettings, make_mae: Callable[..., nn.Module], contract: Any
) -> Callable[..., Fitted]:
    """`run("name", training={...})`: a run in a folder of that name; images are decoded as they come."""

    def call(name: str, share: float = 0.1, callbacks: Any = (), resume: bool = False, **over: Any) -> Fitted:
        method = make_mae()
        (tmp_path / name).mkdir(exist_ok=True)
        settings = run_settings(**over)
        fitted = fit(
            method,
            on_the_fly(photos, share),
            settings,
            contract,
            run=tmp_path / name,
            title="test",
            resume=resume,
            callbacks=callbacks,
        )
        torch.save(method.state_dict(), tmp_path / name / "weights")
        return fitted

    return call


def weights(folder: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(folder / "weights", weights_only=True)
    return loaded


def test_workers_find_the_same_ones_and_the_run_is_the_same(run: Callable[..., Fitted], tmp_path: Path) -> None:
    alone = run("alone", training={"workers": 0})
    helped = run("helped", training={"workers": 2})
    assert alone.unreadable == helped.unreadable == 2
    found = [sorted((tmp_path / name / FILE).read_text().splitlines()) for name in ("alone", "helped")]
    assert found[0] == sorted(set(found[1]))
    one, other = weights(tmp_path / "alone"), weights(tmp_path / "helped")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_resumed_run_counts_on_and_ends_the_same(
    run: Callable[..., Fitted], tmp_path: Path, signal_at: Callable[..., Any]
) -> None:
    import signal

    run("whole")
    with pytest.raises(BaseException, match="--resume"):
        run("parts", callbacks=[signal_at(4, signal.SIGINT)])
    assert run("parts", resume=True).unreadable == 2
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("workers", [0, 2])
def test_over_the_limit_in_the_middle_of_an_epoch_is_one_line(run: Callable[..., Fitted], workers: int) -> None:
    with pytest.raises(DataError, match=r"^2 of the 20 images of photos cannot be read, .* allows 1: ") as caught:
        run("out", share=0.05, training={"workers": workers, "steps": 20})
    assert "\n" not in str(caught.value)
