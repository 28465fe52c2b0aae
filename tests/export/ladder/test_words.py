"""The sentences of a ladder, on steps made up for them."""

from __future__ import annotations

import dataclasses
import json

import pytest

from edgemim.export.ladder.agreement import EQUAL_DB, Agreement
from edgemim.export.ladder.climb import Ladder, Step
from edgemim.export.ladder.limits import LIMITS
from edgemim.export.ladder.words import ladder_to_dict, sentence, worst


def _at(snr_db: float | None) -> Agreement:
    known = snr_db is not None
    return Agreement(
        snr_db=snr_db,
        aligned_db=snr_db,
        relative_error=0.1 if known else None,
        cosine=0.9 if known else None,
        cosine_worst=0.8 if known else None,
        max_abs=1.0 if known else None,
        largest=2.0 if known else None,
        finite=known,
    )


@pytest.fixture
def step() -> Step:
    """Healthy INT8."""
    blocks = {"blocks.0": _at(36), "blocks.1": _at(34)}
    return Step(
        name="int8", against="fp32", limit=LIMITS["int8"], blocks=blocks, output=_at(33), fused=_at(33), passes=1
    )


@pytest.fixture
def departing(step: Step) -> Step:
    blocks = {"blocks.0": _at(36), "blocks.1": _at(12)}
    return dataclasses.replace(
        step, blocks=blocks, first="blocks.1", culprit="blocks.1.mlp.fc2", before_db=36.0, output=_at(11), fused=_at(11)
    )


def test_a_sound_step_names_its_weakest_block(step: Step):
    assert sentence(step) == "int8 follows fp32 in all 2 blocks, at least 34.0 dB (blocks.1)"


def test_a_departing_step_names_block_and_module(departing: Step):
    expected = (
        "int8 departs from fp32 first in blocks.1 (12.0 dB, 36.0 dB in the block before): look at blocks.1.mlp.fc2"
    )
    assert sentence(departing) == expected


def test_noise_that_built_up_slowly_is_told_from_a_sudden_loss(departing: Step):
    slow = dataclasses.replace(departing, before_db=14.0)
    assert "the noise has built up over the blocks before; most is added there by blocks.1.mlp.fc2" in sentence(slow)


def test_values_that_are_not_finite_are_said_to_be(departing: Step):
    broken = dataclasses.replace(departing, blocks={"blocks.0": _at(36), "blocks.1": _at(None)}, output=_at(None))
    assert "blocks.1.mlp.fc2 gives values that are not finite" in sentence(broken)


def test_an_error_that_disappears_when_it_is_observed_is_pinned_on_the_kernels(step: Step):
    vanished = dataclasses.replace(step, fused=_at(5))
    assert sentence(vanished).endswith(
        "; but fused and untapped its output departs (5.0 dB): the graph is right, a kernel here is not"
    )
    assert not vanished.departs
    assert vanished.departs_fused


def test_two_outputs_on_either_side_of_the_limit_accuse_no_kernel(step: Step):
    limit = LIMITS["int8"].threshold_db(None)
    close = dataclasses.replace(step, output=_at(limit + 0.1), fused=_at(limit - 1.4))
    assert not close.departs
    assert close.departs_fused
    assert sentence(close).endswith(
        f"fused and untapped its output is hardly worse ({limit - 1.4:.1f} dB), but below the limit"
    )


def test_kernels_that_hide_an_error_of_the_graph_are_no_comfort(departing: Step):
    hidden = dataclasses.replace(departing, fused=_at(40))
    assert sentence(hidden).endswith("agrees (40.0 dB): these kernels are more precise than the graph says")


def test_the_worst_step_departs_or_was_refused_or_comes_closest_to_its_limit(step: Step, departing: Step):
    half = dataclasses.replace(step, name="fp16", limit=LIMITS["fp16"], blocks={"blocks.0": _at(50)}, output=_at(50))
    half = dataclasses.replace(half, fused=_at(50))
    refused = Step(name="strange", against="fp32", limit=LIMITS["int8"], refusal="unknown op")
    steps = (step, half, refused, departing)
    assert worst(Ladder(images=1, steps=steps)) is departing
    assert worst(Ladder(images=1, steps=steps[:3])) is refused
    # 50 of 40 dB against 34 of 17 dB.
    assert worst(Ladder(images=1, steps=steps[:2])) is half


def test_everything_fits_into_json(step: Step, departing: Step):
    broken = dataclasses.replace(departing, blocks={"blocks.1": _at(None)}, output=_at(None), fused=_at(-EQUAL_DB))
    ladder = ladder_to_dict(Ladder(images=8, steps=(step, broken), notes=("a note",)))
    assert json.loads(json.dumps(ladder, allow_nan=False)) == ladder
    assert ladder["notes"] == ["a note"]
