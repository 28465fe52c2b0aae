"""Settings that were changed on the way: they take effect, and nobody can overlook them."""

from __future__ import annotations

import csv
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgemim.errors import TrainingError
from edgemim.models.checkpoint import load_checkpoint
from edgemim.training import pretrain as module
from edgemim.training.pretrain import pretrain
from edgemim.training.saving.changes import accepted_changes, note_changes
from edgemim.training.saving.save import Interrupted
from edgemim.training.saving.state import newest_state
from edgemim.training.settings.run import RunSettings

MakeSettings = Callable[..., RunSettings]


def test_changes_are_said_and_remembered_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "last").mkdir()
    note_changes(tmp_path, [])
    assert accepted_changes(tmp_path) == []
    for _ in range(2):  # the second time after a kill
        note_changes(tmp_path, ["seed was 0, is 1"])
    (tmp_path / "last" / f"step-000000007-{'0' * 16}.ckpt").touch()
    note_changes(tmp_path, ["seed was 1, is 0", "training.steps was 3, is 9"])
    assert accepted_changes(tmp_path) == [
        {"step": 0, "changes": ["seed was 0, is 1"]},
        {"step": 7, "changes": ["seed was 1, is 0", "training.steps was 3, is 9"]},
    ]
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "going on from step 7 with other settings: seed was 1, is 0; training.steps was 3, is 9"


def test_a_changed_rate_is_the_one_that_is_used(
    tmp_path: Path,
    run_settings: MakeSettings,
    signal_at: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = run_settings(training={"steps": 12, "schedule": "step", "warmup": 0.0, "step_at": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr(module, "_pictures", lambda *_: [signal_at(4, signal.SIGINT)])
        with pytest.raises(Interrupted):
            pretrain(settings, tmp_path / "run", stage="pretrain")
    lower = run_settings(
        training={"steps": 12, "schedule": "step", "warmup": 0.0, "step_at": 1.0, "base_lr": 1e-4, "betas": [0.8, 0.9]}
    )
    with pytest.raises(TrainingError, match=r"training\.base_lr was 0\.01, is 0\.0001; .* --accept-changes"):
        pretrain(lower, tmp_path / "run", stage="pretrain", resume=True)
    pretrain(lower, tmp_path / "run", stage="pretrain", resume=True, accept_changes=True)
    assert "going on from step 4 with other settings: training.base_lr was 0.01" in capsys.readouterr().err
    with open(tmp_path / "run" / "logs" / "csv" / "from-step-000000004" / "metrics.csv") as stream:
        rates = {float(row["lr"]) for row in csv.DictReader(stream)}
    assert rates == {1e-4}
    record = load_checkpoint(tmp_path / "run").artifact.provenance[-1]
    assert record["changes"] == accepted_changes(tmp_path / "run")
    assert record["changes"][0]["step"] == 4
    assert record["changes"][0]["changes"][0] == "training.base_lr was 0.01, is 0.0001"
    # The new settings are the run's own from here on.
    assert pretrain(lower, tmp_path / "run", stage="pretrain", resume=True)["finished_before"]


def test_a_finished_run_can_be_made_longer(tmp_path: Path, run_settings: MakeSettings) -> None:
    pretrain(run_settings(training={"steps": 3}), tmp_path / "run", stage="pretrain")
    longer = run_settings(training={"steps": 5})
    result = pretrain(longer, tmp_path / "run", stage="pretrain", resume=True, accept_changes=True)
    assert result["steps"] == 5
    assert result["loss"] is not None
    found = newest_state(tmp_path / "run")
    assert found is not None
    assert found[1] == 5  # it was trained, not only called so
    record = load_checkpoint(tmp_path / "run").artifact.provenance[-1]
    assert record["result"]["resumed_from"] == 3
    assert record["changes"] == [{"step": 3, "changes": ["training.steps was 3, is 5"]}]


def test_a_run_that_was_not_changed_says_so(tmp_path: Path, run_settings: MakeSettings) -> None:
    pretrain(run_settings(training={"steps": 1}), tmp_path / "run", stage="pretrain", accept_changes=True)
    assert load_checkpoint(tmp_path / "run").artifact.provenance[-1]["changes"] == []
