"""k-NN accuracy on the way: when, of which weights, and without a trace in the run."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgemim.models.checkpoint import load_checkpoint
from edgemim.training.pretrain import pretrain
from edgemim.training.saving.state import BEST, VerifiedCheckpointIO, states
from edgemim.training.settings.run import RunSettings

MakeSettings = Callable[..., RunSettings]


def measured(run: Path) -> dict[int, float]:
    """k-NN accuracy by step, as it was logged."""
    with open(run / "logs" / "csv" / "from-step-000000000" / "metrics.csv") as stream:
        return {int(r["step"]): float(r["knn_top1"]) for r in csv.DictReader(stream) if r.get("knn_top1")}


def test_it_is_measured_every_so_many_epochs_and_changes_nothing(
    tmp_path: Path, run_settings: MakeSettings, imagefolder: Callable[..., Path]
) -> None:
    data = f"imagefolder:{imagefolder(classes=2, each=20)}"
    training = {"steps": 12, "batch_size": 6}
    without = pretrain(
        run_settings(data=data, training=training, evaluation={"probe": "knn"}), tmp_path / "without", stage="pretrain"
    )
    on_the_way = run_settings(data=data, training=training, evaluation={"probe": "knn", "every": 1 / 3})
    result = pretrain(on_the_way, tmp_path / "run", stage="pretrain")
    # 36 of 40 images train, so a third of an epoch is two batches of six.
    found = measured(tmp_path / "run")
    assert sorted(found) == [2, 4, 6, 8, 10, 12]
    assert found[12] == result["knn_top1"] == without["knn_top1"]
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (
        tmp_path / "without" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_best_state_is_the_one_with_the_highest_accuracy(
    tmp_path: Path, run_settings: MakeSettings, ema: float
) -> None:
    evaluation = {"probe": "knn", "every": 0.02, "max_images": 60}
    settings = run_settings(training={"steps": 16, "ema": ema, "base_lr": 3e-2}, evaluation=evaluation)
    pretrain(settings, tmp_path / "run", stage="pretrain")
    found = measured(tmp_path / "run")
    assert sorted(found) == [4, 8, 12, 16]  # 1437 images: 3.6 batches of 8
    (best,) = states(tmp_path / "run" / BEST)
    state = VerifiedCheckpointIO().load_checkpoint(best)
    assert found[state["global_step"]] == max(found.values())
    assert state["callbacks"]["SaveState"]["best"] == max(found.values())


def test_what_ships_is_measured(tmp_path: Path, run_settings: MakeSettings) -> None:
    """With an average of the weights the last measurement on the way is the one of the checkpoint."""
    evaluation = {"probe": "knn", "every": 8 / 1437, "max_images": 2000}
    settings = run_settings(training={"steps": 2, "ema": 0.5}, evaluation=evaluation)
    result = pretrain(settings, tmp_path / "run", stage="pretrain")
    assert measured(tmp_path / "run")[2] == result["knn_top1"]
    state = VerifiedCheckpointIO().load_checkpoint(states(tmp_path / "run" / "last")[0])["state_dict"]
    shipped = load_checkpoint(tmp_path / "run").model.state_dict()
    assert any(not torch.equal(state[f"method.model.{name}"], weight) for name, weight in shipped.items())


def test_without_labels_it_says_so_and_trains(
    tmp_path: Path,
    run_settings: MakeSettings,
    imagefolder: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = run_settings(data=str(imagefolder(classes=0, each=20)), evaluation={"every": 1.0})
    pretrain(settings, tmp_path / "run", stage="pretrain")
    assert "there are no labels to measure with" in capsys.readouterr().err
