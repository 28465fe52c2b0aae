"""One training step: its numbers, its batch, and what happens when a number is none."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from edgemim.errors import TrainingError
from edgemim.methods._base import Batch, Step
from edgemim.preprocess import Preprocess
from edgemim.training.feed.images import AugmentedImages
from edgemim.training.loop.fit import Fitted, fit
from edgemim.training.loop.module import TrainingModule, step_seed
from edgemim.training.saving.state import VerifiedCheckpointIO, newest_state
from edgemim.training.settings.run import RunSettings

STEPS = 10
Train = Callable[..., Fitted]
MakeSettings = Callable[..., RunSettings]


@pytest.fixture
def settings(run_settings: MakeSettings) -> RunSettings:
    return run_settings(training={"steps": STEPS})


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
        ("loss", 0, "loss/first is inf at step 0; lower training"),
        ("term", 0, "loss/second is nan at step 0"),
        ("loss", 3, "loss/first is inf at step 3"),  # between two looks
        ("loss", 9, "loss/first is inf at step 9"),  # the last
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


class Draws(nn.Module):
    """A task that only draws numbers, from the global generator and from its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen: list[tuple[float, float]] = []

    def forward(self, batch: Batch, rng: torch.Generator) -> Step:
        self.seen.append((float(torch.rand(1)), float(torch.rand(1, generator=rng))))
        return Step(self.weight.sum())


class SameGenerator(L.Callback):
    """Compares the global generator before and after each step."""

    def __init__(self) -> None:
        self.same: list[bool] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.before = torch.get_rng_state()

    def on_train_batch_end(self, *_: Any) -> None:
        self.same.append(torch.equal(torch.get_rng_state(), self.before))


def test_each_step_gets_its_own_numbers_and_leaves_the_global_ones(
    augmented: Callable[..., Any], settings: RunSettings, contract: Preprocess, tmp_path: Path
) -> None:
    first, second, watch = Draws(), Draws(), SameGenerator()
    for task, run in ((first, "a"), (second, "b")):
        torch.rand(7)
        fit(task, augmented(24), settings, contract, run=tmp_path / run, title="test", callbacks=[watch])
    assert first.seen == second.seen
    assert len(set(first.seen)) == STEPS
    assert watch.same == [True] * 2 * STEPS


def test_seeds_of_steps_and_ranks_differ() -> None:
    seeds = [step_seed(*key) for key in itertools.product(range(3), range(3), range(200))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 1 << 63 for seed in seeds)
    assert step_seed(1, 2, 3) == step_seed(1, 2, 3)


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
        assert batch.second is None
    # (0 - 0.485) / 0.229 and (1 - 0.485) / 0.229 are the ends of red.
    red = torch.stack([b.images[:, 0] for b in batches])
    assert -2.12 < red.min() < -2.0
    assert 2.1 < red.max() < 2.25


def test_a_method_of_two_crops_gets_both(contract: Preprocess, settings: RunSettings, augmented: Any) -> None:
    one = augmented(8)
    images = AugmentedImages(one.decoded, one.labels, one.augmentation, crops=2)
    module = TrainingModule(nn.Linear(1, 1), settings.training, contract, steps=STEPS, seed=0, images=8)
    raw = images.__getitems__([(0, index) for index in range(8)])
    batch = module.batch(raw)
    assert batch.second is not None
    assert batch.second.crops is not None
    assert batch.crops is not None
    assert not torch.equal(batch.second.crops.boxes, batch.crops.boxes)
    # The other crop is normalised as the first one is: (0.5 - 0.485) / 0.229 is a red of one half.
    red = raw["second.images"][:, 0].float() / 255
    torch.testing.assert_close(batch.second.images[:, 0], (red - 0.485) / 0.229, rtol=1e-5, atol=1e-5)
