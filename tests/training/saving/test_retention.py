"""Which states outlive the newest ones."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgemim.artifact import sha256_of
from edgemim.errors import OutputError
from edgemim.methods._base import Method
from edgemim.training.loop.fit import Fitted
from edgemim.training.saving.retention import Retention
from edgemim.training.saving.state import BEST, KEPT, LAST, VerifiedCheckpointIO, states, step_of
from edgemim.training.settings.run import RunSettings


def save(run: Path, step: int) -> Path:
    VerifiedCheckpointIO().save_checkpoint({"global_step": step, "w": torch.full((3,), float(step))}, run / LAST)
    return states(run / LAST)[0]


def steps(folder: Path) -> list[int]:
    return [step_of(state) for state in states(folder)]


def test_every_third_stays_for_good(tmp_path: Path) -> None:
    retention = Retention(tmp_path, every=3)
    for step in range(1, 11):
        save(tmp_path, step)
        retention.keep(step)
    assert steps(tmp_path / LAST) == [10, 9]
    assert steps(tmp_path / KEPT) == [9, 6, 3]
    assert not (tmp_path / BEST).exists()
    assert [retention.is_due(step) for step in (3, 4, 6)] == [True, False, True]


def test_with_zero_none_does(tmp_path: Path) -> None:
    retention = Retention(tmp_path, every=0)
    save(tmp_path, 5)
    retention.keep(5)
    assert not retention.is_due(5)
    assert not (tmp_path / KEPT).exists()


def test_there_is_one_best_and_it_costs_no_space_while_it_is_the_newest(tmp_path: Path) -> None:
    retention = Retention(tmp_path, every=0)
    for step, value in ((1, 0.3), (2, 0.5), (3, 0.4), (4, None)):
        best = retention.is_best(value)
        retention.note(step, value)
        state = save(tmp_path, step)
        retention.keep(step)
        if best:
            assert state.stat().st_nlink == 2
    (best_one,) = states(tmp_path / BEST)
    assert step_of(best_one) == 2
    assert sha256_of(best_one).startswith(best_one.stem[-16:])
    again = Retention(tmp_path, every=0)
    again.restore(retention.state())
    assert [again.is_best(value) for value in (0.45, 0.5, 0.6, None)] == [False, False, True, False]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EXDEV, errno.ENOTSUP])
def test_where_a_file_has_one_name_only_it_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", no_links)
    state = save(tmp_path, 1)
    retention = Retention(tmp_path, every=1)
    retention.note(1, 0.5)
    retention.keep(1)
    for folder in (KEPT, BEST):
        (copy,) = states(tmp_path / folder)
        assert copy.read_bytes() == state.read_bytes()
        assert copy.stat().st_ino != state.stat().st_ino


def test_a_full_disk_keeps_the_best_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    retention = Retention(tmp_path, every=0)
    retention.note(1, 0.5)
    save(tmp_path, 1)
    retention.keep(1)
    retention.note(2, 0.6)
    save(tmp_path, 2)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OutputError, match="the disk is full"):
        retention.keep(2)
    assert steps(tmp_path / BEST) == [1]


def test_what_a_kill_after_the_saving_left_undone_is_done_at_the_resume(tmp_path: Path) -> None:
    retention = Retention(tmp_path, every=2, newest=1)
    for step in (2, 4):
        retention.note(step, float(step))
        VerifiedCheckpointIO(keep=5).save_checkpoint({"global_step": step}, tmp_path / LAST)
    again = Retention(tmp_path, every=2, newest=1)
    again.restore(retention.state())
    again.keep(4)
    assert [steps(tmp_path / name) for name in (LAST, KEPT, BEST)] == [[4], [4], [4]]


def test_a_run_keeps_what_it_was_asked_to(
    train: Callable[..., Fitted],
    make_mae: Callable[..., Method],
    run_settings: Callable[..., RunSettings],
    tmp_path: Path,
) -> None:
    settings = run_settings(training={"steps": 10, "save_every": 4, "save_keep": 1})
    train(make_mae(), settings, tmp_path)
    assert (steps(tmp_path / LAST), steps(tmp_path / KEPT)) == ([10], [8, 4])
    # Ten steps are two looks at the loss: too few to call a state the best.
    assert not (tmp_path / BEST).exists()


def test_the_best_state_is_the_one_with_the_lowest_smoothed_loss(
    train: Callable[..., Fitted],
    make_mae: Callable[..., Method],
    run_settings: Callable[..., RunSettings],
    tmp_path: Path,
) -> None:
    settings = run_settings(training={"steps": 61, "save_every": 10, "base_lr": 3e-3})
    train(make_mae(), settings, tmp_path)
    (best,) = states(tmp_path / BEST)
    values = {}
    for state in [*states(tmp_path / KEPT), *states(tmp_path / LAST)]:
        recent = VerifiedCheckpointIO().load_checkpoint(state)["losses"]["recent"]["loss"]
        if len(recent) == 5:
            values[step_of(state)] = sorted(recent)[2]
    assert len(values) >= 3
    assert values[step_of(best)] == min(values.values())
