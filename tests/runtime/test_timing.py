"""`edgemim.runtime.timing`: what is told of the trials, and what preparing an image adds."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgemim.runtime.bundle import load_bundle
from edgemim.runtime.device import describe_device
from edgemim.runtime.environment.watch import EnvironmentWatch
from edgemim.runtime.latency.protocol import LatencyProtocol
from edgemim.runtime.latency.summary import summarise_briefly
from edgemim.runtime.plan import make_plan
from edgemim.runtime.power.meter import PowerMeter
from edgemim.runtime.timing import Preparation, time_together
from edgemim.runtime.trial import Trial, start

BRIEF = LatencyProtocol(runs=100, seconds=0, rounds=2, warmup_runs=1, warmup_s=0, warmup_most_s=0)


@pytest.fixture
def timed(world: SimpleNamespace, no_vendor: None) -> Any:
    """`timed(protocol, **bundle)`: trials, what `time_together` returned, the watch, inputs of every run."""

    def run(protocol: LatencyProtocol = BRIEF, **options: Any) -> SimpleNamespace:
        bundle, fake = load_bundle(world.bundle(**options)), world.Fake()
        trials = [Trial(pair=pair) for pair in make_plan(bundle, [fake], None, describe_device()).pairs]
        seen: list[np.ndarray] = []
        for trial in trials:
            start(trial, bundle, Path("unused"), 1)
            _remember(trial, seen)
        turns: list[int] = []
        with EnvironmentWatch() as watch:
            meter = PowerMeter(root=world.tmp / "no sensors")
            (found,) = time_together([(bundle, trials)], protocol, meter, watch, lambda: turns.append(len(turns) + 1))
        return SimpleNamespace(bundle=bundle, trials=trials, found=found, watch=watch, seen=seen, turns=turns)

    return run


def _remember(trial: Trial, seen: list[np.ndarray]) -> None:
    session = trial.session
    assert session is not None
    original = session.run

    def run(inputs: Any) -> Any:
        seen.append(next(iter(inputs.values())))
        return original(inputs)

    session.run = run  # type: ignore[method-assign]


@pytest.mark.parametrize("encoding", ["pixels", "normalised"])
def test_every_trial_is_timed_with_and_without_preparing_its_images(timed: Any, encoding: str) -> None:
    done = timed(encoding=encoding)
    assert isinstance(done.found, Preparation)
    assert done.found.to_dict().keys() == {"n", "p50_ms"}
    assert done.found.to_dict()["n"] == len(done.found.nanoseconds) >= 64
    for trial in done.trials:
        assert trial.latency is not None
        assert trial.latency.n == 100
        assert trial.samples is not None
        assert trial.prepared is not None
        together = summarise_briefly(trial.prepared.nanoseconds)
        assert together.n >= 64
        assert together.p90_ms is not None
        # Decoding a PNG takes longer than a product with a small matrix.
        assert together.p50_ms > max(trial.latency.p50_ms, 0.5 * done.found.to_dict()["p50_ms"])
    assert done.turns[-1] == 4


def test_runs_with_preparation_come_right_after_those_without_in_every_round(timed: Any) -> None:
    for trial in timed().trials:
        plain, prepared = trial.samples, trial.prepared
        for number in range(BRIEF.rounds):
            ended = plain.start_ns[plain.rounds == number][-1]
            began = prepared.start_ns[prepared.rounds == number][0]
            following = plain.start_ns[plain.rounds == number + 1]
            assert ended < began
            assert not len(following) or prepared.start_ns[prepared.rounds == number][-1] < following[0]


@pytest.mark.parametrize(("batch", "golden"), [(1, 4), (4, 1)])
def test_no_timed_run_is_given_the_array_of_the_run_before(timed: Any, batch: int, golden: int) -> None:
    done = timed(batch=batch)
    arrays = [id(array) for array in done.seen]
    assert all(one != other for one, other in itertools.pairwise(arrays))
    assert len({array.tobytes() for array in done.seen}) >= golden


@pytest.mark.parametrize("encoding", ["pixels", "normalised"])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_session_sees_the_golden_images_as_they_were_prepared_here(timed: Any, encoding: str, batch: int) -> None:
    done = timed(encoding=encoding, batch=batch)
    images = done.bundle.golden.pixels if encoding == "pixels" else done.bundle.golden.inputs
    # The last runs are those with preparation: every golden image in turn, whole batches.
    for inputs in done.seen[-4:]:
        assert inputs.shape == done.bundle.input_shape
        for image in inputs:
            assert any(np.allclose(image, golden, atol=1e-4) for golden in images)
    assert len({inputs.tobytes() for inputs in done.seen[-8:]}) == 4


def test_a_bundle_without_golden_images_has_no_time_of_preparation(timed: Any) -> None:
    done = timed(golden=None)
    assert done.found is None
    assert [trial.prepared for trial in done.trials] == [None, None]
    assert all(trial.latency is not None for trial in done.trials)


def test_who_asks_for_a_handful_of_runs_gets_no_more_with_preparation(timed: Any) -> None:
    few = LatencyProtocol(runs=4, seconds=0, rounds=2, warmup_runs=1, warmup_s=0, warmup_most_s=0)
    done = timed(few)
    assert len(done.found.nanoseconds) == 4
    assert {len(trial.prepared.nanoseconds) for trial in done.trials} == {4}


def test_the_watch_is_told_when_something_was_timed(timed: Any) -> None:
    done = timed()
    began = min(trial.samples.start_ns[0] for trial in done.trials)
    ended = max(trial.prepared.start_ns[-1] + trial.prepared.nanoseconds[-1] for trial in done.trials)
    readings = done.watch.arrays(0)["environment.start_ns"]
    # What goes before does not count.
    assert (ended - began) / 1e9 <= done.watch.summary().seconds < (readings[-1] - readings[0]) / 1e9
