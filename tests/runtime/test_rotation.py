"""`edgemim.runtime.rotation`: a timed session gets another array each time, as a program's does."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from edgemim.runtime.bundle import load_bundle
from edgemim.runtime.rotation import rotating_run, timed_inputs


@pytest.mark.parametrize(("batch", "arrays", "different"), [(1, 4, 4), (2, 2, 2), (4, 2, 1)])
def test_the_golden_batches_come_in_turn_and_a_single_one_as_two_arrays(
    world: SimpleNamespace, batch: int, arrays: int, different: int
) -> None:
    bundle = load_bundle(world.bundle(batch=batch, evaluation=None))
    inputs = [one["images"] for one in timed_inputs(bundle)]
    assert len({id(array) for array in inputs}) == len(inputs) == arrays
    assert len({array.tobytes() for array in inputs}) == different
    assert not any(np.shares_memory(one, other) for one, other in itertools.combinations(inputs, 2))


def test_every_call_runs_on_the_next_array(world: SimpleNamespace) -> None:
    bundle = load_bundle(world.bundle(evaluation=None))
    seen: list[int] = []
    fake = SimpleNamespace(run=lambda inputs: seen.append(id(inputs["images"])) or {"logits": np.zeros(1)})
    call = rotating_run(fake, bundle)  # type: ignore[arg-type]
    assert all("logits" in call() for _ in range(9))
    assert seen[:4] == seen[4:8]
    assert len(set(seen[:4])) == 4
    assert seen[8] == seen[0]
