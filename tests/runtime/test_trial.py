"""`edgemim.runtime.trial`: what evaluating keeps, and that its numbers can be computed again from that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgemim.errors import DeviceError
from edgemim.runtime.bundle import Bundle, load_bundle
from edgemim.runtime.plan import Pair
from edgemim.runtime.trial import Trial, evaluate, start


@pytest.fixture
def started(world: SimpleNamespace, tmp_path: Path) -> Any:
    """Trials of every candidate on the fake backend, started."""

    def make(**options: Any) -> tuple[Bundle, list[Trial]]:
        bundle = load_bundle(world.bundle(**options))
        trials = [Trial(pair=Pair(candidate=candidate, backend=world.Fake())) for candidate in bundle.candidates]
        for trial in trials:
            start(trial, bundle, tmp_path / "cache", 1)
        return bundle, trials

    return make


@pytest.mark.parametrize("batch", [1, 3])
def test_the_answers_kept_give_the_accuracy_reported(started: Any, batch: int) -> None:
    bundle, trials = started(batch=batch)
    ticks = []
    reference = evaluate(trials, bundle, lambda: ticks.append(1))
    assert len(ticks) == len(bundle.evaluation) == 20
    assert reference is trials[0]
    labels = bundle.evaluation.labels
    assert reference.answers.tolist() == labels.tolist()
    assert reference.accuracy.top1_drop_low is None
    for trial in trials:
        assert trial.accuracy.top1 == (trial.answers == labels).mean()
        assert trial.accuracy.agreement == (trial.answers == reference.answers).mean()
        assert trial.margins.shape == (20,)
        assert (trial.margins > 0).all()
    flips = trials[1].accuracy.flips
    assert flips.to_wrong == (trials[1].answers != labels).sum()
    assert trials[1].accuracy.enough is False


class FakeEmbedding:
    """A fake session whose output is no classes."""

    def __init__(self, session: Any) -> None:
        self.session = session

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"embedding": self.session.run(inputs)["logits"]}


def test_an_embedding_has_no_answers(started: Any) -> None:
    bundle, trials = started()
    for trial in trials:
        trial.session = FakeEmbedding(trial.session)
    evaluate(trials, replace(bundle, output_name="embedding"), lambda: None)
    assert {trial.answers is None for trial in trials} == {True}
    assert {trial.accuracy.top1 for trial in trials} == {None}
    assert min(trial.accuracy.cka for trial in trials) > 0.99


def test_a_trial_that_fails_on_the_way_drops_out_and_the_others_go_on(started: Any) -> None:
    bundle, trials = started()
    run, calls = trials[1].session.run, []

    def fails_at_the_fifth(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        calls.append(1)
        if len(calls) == 5:
            raise DeviceError("fake cannot run the model: out of memory")
        return run(inputs)

    trials[1].session.run = fails_at_the_fifth
    evaluate(trials, bundle, lambda: None)
    assert trials[0].accuracy.top1 == 1.0
    told = (trials[1].disqualified, trials[1].accuracy, trials[1].answers)
    assert told == ("fake cannot run the model: out of memory", None, None)
    assert len(calls) == 5
