"""The loop: stopped anywhere and resumed, a run ends with the very bits of one done in one go."""

from __future__ import annotations

import csv
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from edgemim.errors import DataError, OutputError
from edgemim.methods._base import Method
from edgemim.training.loop.fit import Fitted
from edgemim.training.saving.save import Interrupted
from edgemim.training.saving.state import newest_state
from edgemim.training.settings.run import RunSettings

STEPS = 10
Train = Callable[..., Fitted]
MakeMAE = Callable[..., Method]
MakeSettings = Callable[..., RunSettings]


def weights(task: nn.Module) -> bytes:
    return save({k: v.contiguous() for k, v in task.state_dict().items()})


@pytest.fixture
def settings(run_settings: MakeSettings) -> RunSettings:
    # Every source of chance and every state: dropout, drop path, warm-up, clipping, AdamW's moments.
    return run_settings(training={"steps": STEPS, "clip_grad": 1.0})


@pytest.fixture(scope="module")
def in_one_go(
    train: Train, make_mae: MakeMAE, run_settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], bytes]:
    """`in_one_go(images)`: weights after an uninterrupted run over so many images."""
    known: dict[int, bytes] = {}

    def get(images: int) -> bytes:
        if images not in known:
            task = make_mae()
            settings = run_settings(training={"steps": STEPS, "clip_grad": 1.0})
            train(task, settings, tmp_path_factory.mktemp("whole"), images=images)
            known[images] = weights(task)
        return known[images]

    return get


# 24 images are 3 batches of 8: step 3 is the last of an epoch, 9 too. With 20, batches span two epochs.
@pytest.mark.parametrize(
    ("images", "stops"),
    [
        (24, [1]), (24, [3]), (24, [4]), (24, [9]), (24, [1, 2, 3, 4, 6, 9]), (20, [2]), (20, [5]), (20, [3, 7]),
    ],
)  # fmt: skip
def test_a_run_that_was_stopped_ends_like_one_that_was_not(
    train: Train,
    make_mae: MakeMAE,
    settings: RunSettings,
    in_one_go: Callable[[int], bytes],
    tmp_path: Path,
    images: int,
    stops: list[int],
) -> None:
    for done, stop in enumerate(stops):
        torch.rand(done + 1)  # a new process has another state of the global generator ...
        with pytest.raises(Interrupted, match=f"stopped at step {stop} of {STEPS}"):
            train(make_mae(seed=done), settings, tmp_path, images=images, stop_at=stop, resume=done > 0)
        found = newest_state(tmp_path)
        assert found is not None
        assert found[1] == stop
    task = make_mae(seed=99)  # ... and other fresh weights, which the saved ones replace
    fitted = train(task, settings, tmp_path, images=images, resume=True)
    assert weights(task) == in_one_go(images)
    assert (fitted.steps, fitted.resumed_from) == (STEPS, stops[-1])


@pytest.mark.parametrize("stops", [[1], [3, 4]])
def test_a_run_that_accumulates_resumes_bit_by_bit_too(
    train: Train, make_mae: MakeMAE, run_settings: MakeSettings, tmp_path: Path, stops: list[int]
) -> None:
    settings = run_settings(training={"steps": STEPS, "accumulate": 4})
    whole = make_mae()
    train(whole, settings, tmp_path / "whole")
    for done, stop in enumerate(stops):
        with pytest.raises(Interrupted, match=f"stopped at step {stop} of {STEPS}"):
            train(make_mae(seed=done), settings, tmp_path / "run", stop_at=stop, resume=done > 0)
    task = make_mae(seed=99)
    train(task, settings, tmp_path / "run", resume=True)
    assert weights(task) == weights(whole)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_are_clipped_by_their_norm(
    train: Train, make_mae: MakeMAE, run_settings: MakeSettings, tmp_path: Path, precision: str
) -> None:
    norms = {}
    for limit in (0.0, 1e-3):
        task = make_mae()
        train(task, run_settings(training={"steps": 1, "clip_grad": limit, "precision": precision}), tmp_path)
        gradients = [p.grad for p in task.parameters() if p.grad is not None]
        norms[limit] = torch.nn.utils.get_total_norm(gradients).item()
    assert norms[0.0] > 0.01
    assert norms[1e-3] == pytest.approx(1e-3, rel=2e-3)  # torch adds 1e-6 to what it divides by


def test_the_same_seed_gives_the_same_bits_and_another_one_others(
    train: Train, make_mae: MakeMAE, run_settings: MakeSettings, in_one_go: Callable[[int], bytes], tmp_path: Path
) -> None:
    for seed, same in ((0, True), (1, False)):
        task = make_mae()
        torch.rand(5)
        train(task, run_settings(seed=seed, training={"steps": STEPS, "clip_grad": 1.0}), tmp_path / str(seed))
        assert (weights(task) == in_one_go(24)) is same


def test_dropout_matters_to_these_tests(
    train: Train, make_mae: MakeMAE, settings: RunSettings, in_one_go: Callable[[int], bytes], tmp_path: Path
) -> None:
    task = make_mae()
    for module in task.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    train(task, settings, tmp_path)
    assert weights(task) != in_one_go(24)


def test_a_finished_run_that_is_resumed_only_loads_its_end(
    train: Train, make_mae: MakeMAE, settings: RunSettings, in_one_go: Callable[[int], bytes], tmp_path: Path
) -> None:
    train(make_mae(), settings, tmp_path)
    task = make_mae(seed=5)
    fitted = train(task, settings, tmp_path, resume=True)
    assert weights(task) == in_one_go(24)
    assert (fitted.resumed_from, fitted.loss) == (STEPS, None)


def test_resume_without_a_state_starts_at_the_beginning(
    train: Train, make_mae: MakeMAE, settings: RunSettings, in_one_go: Callable[[int], bytes], tmp_path: Path
) -> None:
    task = make_mae()
    assert train(task, settings, tmp_path, resume=True).resumed_from == 0
    assert weights(task) == in_one_go(24)


def test_without_resume_a_saved_state_is_left_alone(
    train: Train, make_mae: MakeMAE, settings: RunSettings, in_one_go: Callable[[int], bytes], tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        train(make_mae(seed=3), settings, tmp_path, stop_at=4)
    task = make_mae()
    train(task, settings, tmp_path)
    assert weights(task) == in_one_go(24)


def test_a_damaged_newest_state_costs_only_the_steps_since_the_one_before(
    train: Train, make_mae: MakeMAE, run_settings: MakeSettings, tmp_path: Path, in_one_go: Callable[[int], bytes]
) -> None:
    saves_each_step = run_settings(training={"steps": STEPS, "clip_grad": 1.0, "save_minutes": 0.0})
    with pytest.raises(Interrupted):
        train(make_mae(), saves_each_step, tmp_path, stop_at=6)
    found = newest_state(tmp_path)
    assert found is not None
    found[0].write_bytes(found[0].read_bytes()[:-1])
    task = make_mae(seed=1)
    assert train(task, saves_each_step, tmp_path, resume=True).resumed_from == 5
    assert weights(task) == in_one_go(24)


def test_a_disk_that_fills_up_leaves_an_earlier_state_to_go_on_from(
    train: Train,
    make_mae: MakeMAE,
    run_settings: MakeSettings,
    in_one_go: Callable[[int], bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saves_each_step = run_settings(training={"steps": STEPS, "clip_grad": 1.0, "save_minutes": 0.0})
    sync, calls = os.fsync, []

    def fills_up(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 14:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fills_up)
    with pytest.raises(OutputError, match="the disk is full"):
        train(make_mae(), saves_each_step, tmp_path)
    monkeypatch.undo()
    found = newest_state(tmp_path)
    assert found is not None
    assert 1 < found[1] < STEPS
    task = make_mae(seed=1)
    assert train(task, saves_each_step, tmp_path, resume=True).resumed_from == found[1]
    assert weights(task) == in_one_go(24)


def test_a_set_smaller_than_a_batch_is_refused(
    train: Train, make_mae: MakeMAE, settings: RunSettings, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="has 7 images, one batch takes 8; set --batch-size to at most 7"):
        train(make_mae(), settings, tmp_path, images=7)
    assert list(tmp_path.iterdir()) == []


def test_losses_are_logged_for_people_and_for_programs(
    train: Train, make_mae: MakeMAE, settings: RunSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted = train(make_mae(), settings, tmp_path)
    with open(tmp_path / "logs" / "csv" / "from-step-000000000" / "metrics.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(r["step"]) for r in rows] == [0, STEPS - 1]
    assert float(rows[-1]["loss"]) == fitted.loss
    assert float(rows[0]["lr"]) == 0
    assert list((tmp_path / "logs" / "tensorboard").glob("events.*"))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"test {STEPS}/{STEPS}" in shown.err
    assert "images/s loss" in shown.err


def test_bf16_trains_too(train: Train, make_mae: MakeMAE, run_settings: MakeSettings, tmp_path: Path) -> None:
    fitted = train(make_mae(), run_settings(training={"steps": 2, "precision": "bf16"}), tmp_path)
    assert fitted.precision == "bf16-mixed"
    assert fitted.loss is not None
    assert 0.5 < fitted.loss < 5
