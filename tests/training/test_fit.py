"""The loop: stopped anywhere and resumed, a run ends with the very bits of one done in one go."""

from __future__ import annotations

import csv
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import save
from torch import nn

from edgemim.errors import DataError, OutputError, Preempted, TrainingError
from edgemim.methods._base import Batch, Method, Step
from edgemim.training.callbacks import Interrupted
from edgemim.training.fit import Fitted
from edgemim.training.settings import RunSettings
from edgemim.training.state import LAST, VerifiedCheckpointIO, newest_state

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


class Broken(nn.Module):
    """A task whose losses or gradients go wrong at one step."""

    def __init__(self, at: int, what: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.at = at
        self.what = what
        self.calls = 0

    def forward(self, batch: Batch, rng: torch.Generator) -> Step:
        bad = self.calls == self.at
        self.calls += 1
        loss, second = self.weight.square().sum(), torch.tensor(1.0)
        if bad and self.what == "loss":
            loss = loss * float("inf")
        elif bad and self.what == "term":
            second = torch.tensor(float("nan"))
        elif bad and self.what == "gradient":
            loss = loss + (self.weight * 0).sqrt().sum()  # zero, with an infinite slope
        return Step(loss, {"loss/first": loss.detach(), "loss/second": second})


@pytest.mark.parametrize(
    ("what", "at", "message"),
    [
        ("loss", 0, "loss is inf at step 0; lower training"),
        ("term", 0, "loss/second is nan at step 0"),
        ("loss", 9, "loss is inf at step 9"),  # the last
    ],
)
def test_a_loss_that_is_not_finite_names_the_term_and_the_step(
    train: Train, settings: RunSettings, tmp_path: Path, what: str, at: int, message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        train(Broken(at, what), settings, tmp_path)
    assert newest_state(tmp_path) is None


def test_weights_that_are_not_finite_never_replace_a_good_state(
    train: Train, run_settings: MakeSettings, tmp_path: Path
) -> None:
    saves_each_step = run_settings(training={"steps": STEPS, "save_minutes": 0.0, "warmup": 0.0})
    with pytest.raises(TrainingError, match=r"weight is not finite after step 5; lower training\.base_lr"):
        train(Broken(4, "gradient"), saves_each_step, tmp_path)
    found = newest_state(tmp_path)
    assert found is not None
    assert found[1] == 4
    state = VerifiedCheckpointIO().load_checkpoint(found[0])["state_dict"]
    assert all(v.isfinite().all() for v in state.values())


def test_each_step_gets_its_own_numbers_and_leaves_the_global_ones(
    train: Train, settings: RunSettings, tmp_path: Path
) -> None:
    seen: list[tuple[float, float]] = []

    class Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, batch: Batch, rng: torch.Generator) -> Step:
            seen.append((float(torch.rand(1)), float(torch.rand(1, generator=rng))))
            return Step(self.weight.sum())

    for run in ("a", "b"):
        torch.manual_seed(5)
        before = torch.get_rng_state()
        train(Draws(), settings, tmp_path / run)
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(7)
    assert seen[:STEPS] == seen[STEPS:]
    assert len(set(seen)) == STEPS


def test_a_batch_says_what_it_holds(train: Train, settings: RunSettings, tmp_path: Path) -> None:
    batches: list[Batch] = []

    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, batch: Batch, rng: torch.Generator) -> Step:
            batches.append(batch)
            return Step(self.weight.sum())

    train(Looks(), settings, tmp_path)
    for step, batch in enumerate(batches):
        assert batch.images.shape == (8, 3, 16, 16)
        assert batch.images.dtype == torch.float32
        assert batch.index is not None
        assert batch.labels is not None
        assert torch.equal(batch.labels, batch.index % 3)
        assert batch.epoch_share == step / STEPS
    # (0 - 0.485) / 0.229 and (1 - 0.485) / 0.229 are the ends of red.
    red = torch.stack([b.images[:, 0] for b in batches])
    assert -2.12 < red.min() < -2.0
    assert 2.1 < red.max() < 2.25


@pytest.fixture
def signals_seen() -> Iterator[list[Any]]:
    """Handlers of SIGINT and SIGTERM, which have to be the same afterwards."""
    import signal

    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    yield before
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_sigint_saves_stops_and_says_how_to_go_on(
    train: Train, make_mae: MakeMAE, settings: RunSettings, tmp_path: Path, signals_seen: list[Any]
) -> None:
    with pytest.raises(Interrupted) as caught:
        train(make_mae(), settings, tmp_path, stop_at=2)
    assert str(caught.value) == (
        f"stopped at step 2 of {STEPS}; its state is in {tmp_path / LAST}; run the same command with --resume to go on"
    )
    assert isinstance(caught.value, KeyboardInterrupt)
    assert not isinstance(caught.value, Exception)


def test_sigterm_is_a_preemption(
    train: Train, make_mae: MakeMAE, settings: RunSettings, tmp_path: Path, signals_seen: list[Any]
) -> None:
    import signal

    with pytest.raises(Preempted, match="run the same command with --resume") as caught:
        train(make_mae(), settings, tmp_path, stop_at=2, number=signal.SIGTERM)
    assert caught.value.exit_code == 75
    found = newest_state(tmp_path)
    assert found is not None
    assert found[1] == 2


def test_a_second_sigint_stops_at_once(
    augmented: Callable[..., Any],
    make_mae: MakeMAE,
    settings: RunSettings,
    tmp_path: Path,
    signal_at: Any,
    contract: Any,
    signals_seen: list[Any],
) -> None:
    import signal

    from edgemim.training.fit import fit

    twice: list[L.Callback] = [signal_at(2, signal.SIGINT), signal_at(2, signal.SIGINT)]
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(make_mae(), augmented(24), settings, contract, run=tmp_path, title="test", callbacks=twice)
    assert not isinstance(caught.value, Interrupted)
    assert newest_state(tmp_path) is None


def test_bf16_trains_too(train: Train, make_mae: MakeMAE, run_settings: MakeSettings, tmp_path: Path) -> None:
    fitted = train(make_mae(), run_settings(training={"steps": 2, "precision": "bf16"}), tmp_path)
    assert fitted.precision == "bf16-mixed"
    assert fitted.loss is not None
    assert 0.5 < fitted.loss < 5
