"""`edgemim.runtime.verdict`: which row ships, and the sentence made from the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgemim.runtime.verdict import choose, ranking, verdict


def row(name: str, p50: float | None, rounds: tuple[float, ...] | None = None, **changes: Any) -> dict[str, Any]:
    """A row whose rounds are all alike, unless they are given."""
    plain = {
        "name": name,
        "precision": name[:4],
        "backend": "openvino",
        "reference_only": False,
        "disqualified": None,
        "latency": None if p50 is None else {"p50_ms": p50, "round_p50_ms": rounds or (p50, p50, p50)},
        "gates": [],
        "passed": p50 is not None,
    }
    return {**plain, **changes}


def missed(sentence: str) -> dict[str, Any]:
    return {"gates": [{"passed": False, "sentence": sentence}], "passed": False}


def say(*rows: dict[str, Any]) -> str:
    return verdict(rows, choose(rows), "CPU")


def test_the_fastest_row_that_passes_is_chosen() -> None:
    rows = [row("fp32", 3.0), row("int8-a", 1.0, **missed("x")), row("int8-b", 2.0)]
    assert choose(rows) is rows[2]


def test_fp32_is_chosen_where_int8_is_not_clearly_faster() -> None:
    rows = [row("int8-nncf", 2.9), row("fp32", 3.0)]
    assert choose(rows) is rows[1]
    assert say(*rows) == (
        "on this CPU, int8-nncf on openvino is about as fast as fp32 on openvino: ship fp32 on openvino (p50 3 ms)"
    )


def test_int8_is_chosen_where_fp32_is_as_fast_but_misses_a_gate() -> None:
    rows = [row("int8-nncf", 2.9), row("fp32", 3.0, **missed("size_mb is 22, limit 10"))]
    assert choose(rows) is rows[0]


def test_nothing_is_chosen_when_nothing_passes() -> None:
    assert choose([row("fp32", 3.0, **missed("x")), row("int8", None)]) is None


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            [row("fp32", 2.0), row("int8-nncf", 2.8)],
            "on this CPU, int8-nncf on openvino is 1.4x slower than fp32 on openvino: ship fp32 on openvino (p50 2 ms)",
        ),
        (
            [row("fp32", 3.0), row("int8-nncf", 1.5, gates=[{"passed": True, "sentence": ""}])],
            "on this CPU, int8-nncf on openvino is 2.0x faster than fp32 on openvino and passes every gate: "
            "ship int8-nncf on openvino (p50 1.5 ms)",
        ),
        (
            [row("fp32", 3.0), row("int8-nncf", 1.5, **missed("top1.max_drop is 0.03, limit 0.01"))],
            "on this CPU, int8-nncf on openvino is 2.0x faster than fp32 on openvino, and "
            "top1.max_drop is 0.03, limit 0.01: ship fp32 on openvino (p50 3 ms)",
        ),
        (
            [row("fp32", 3.0), row("int8-nncf", None, disqualified="its outputs are not finite")],
            "int8-nncf on openvino is disqualified, its outputs are not finite: ship fp32 on openvino (p50 3 ms)",
        ),
        ([row("fp32", 3.0)], "ship fp32 on openvino (p50 3 ms)"),
        (
            [row("fp32", 3.0, **missed("p99_ms is 9, limit 8")), row("int8-nncf", None, disqualified="broken")],
            "nothing ships: fp32 on openvino: p99_ms is 9, limit 8; int8-nncf on openvino: broken",
        ),
    ],
)
def test_the_sentence_follows_from_the_numbers(rows: list[dict[str, Any]], sentence: str) -> None:
    assert say(*rows) == sentence


@pytest.mark.parametrize("rounds", [(3.09, 3.12, 3.15), (2.7, 3.9, 4.8), (2.88, 2.91, 2.94)])
def test_a_difference_that_is_small_or_not_in_every_round_is_none(rounds: tuple[float, ...]) -> None:
    assert "is about as fast as fp32 on openvino" in say(row("fp32", 3.0), row("int8-nncf", rounds[1], rounds))


def test_one_disturbed_round_of_many_changes_nothing() -> None:
    # Ratios about 0.7, each round a little different; in one of 60 the faster one met a burst and took twice as long.
    rng = np.random.default_rng(0)
    fp32, int8 = 3.0 * rng.uniform(0.99, 1.01, 60), 2.1 * rng.uniform(0.99, 1.01, 60)
    disturbed = int8 * np.where(np.arange(60) == 7, 2.2, 1.0)
    for rounds in (int8, disturbed):
        rows = [row("fp32", 3.0, tuple(fp32)), row("int8-nncf", 2.1, tuple(rounds))]
        assert choose(rows) is rows[1]
        assert "is 1.4x faster than fp32" in say(*rows)


def test_eight_rounds_with_one_outlier_and_a_large_effect_are_decided() -> None:
    rows = [
        row("fp32", 3.0, (3.0, 3.02, 2.98, 3.01, 3.0, 2.99, 3.03, 3.0)),
        row("int8-nncf", 2.1, (2.1, 2.12, 2.09, 6.3, 2.1, 2.11, 2.08, 2.1)),
    ]
    assert choose(rows) is rows[1]
    assert "is 1.4x faster than fp32" in say(*rows)


def test_measuring_for_longer_decides_what_few_rounds_leave_open() -> None:
    # A difference of 6 % in noise of 8 % of a round.
    def rows(rounds: int) -> list[dict[str, Any]]:
        noise = np.exp(np.random.default_rng(3).normal(0, 0.08, (2, rounds)))
        return [row("fp32", 3.0, tuple(3.0 * noise[0])), row("int8-nncf", 2.8, tuple(2.8 * noise[1]))]

    few, many = rows(8), rows(60)
    assert choose(few) is few[0]
    assert choose(many) is many[1]


def test_nothing_that_ran_is_said_in_one_line_that_names_every_candidate_but_the_reference() -> None:
    rows = [
        row("int8-a", None, disqualified="backend 'openvino' was killed"),
        row("int8-b", None, disqualified="its outputs are not finite"),
        row("fp32", None, reference_only=True),
    ]
    told = (
        "no candidate runs right here: int8-a on openvino: backend 'openvino' was killed; "
        "int8-b on openvino: its outputs are not finite"
    )
    assert say(*rows) == ranking(rows, "CPU") == told


def test_rounds_are_compared_with_the_same_round_of_the_other() -> None:
    # Both slow down together: in every round int8 takes 0.8 of fp32, though its slowest is above fp32's fastest.
    rows = [row("fp32", 4.0, (3.0, 4.0, 5.0)), row("int8-nncf", 3.2, (2.4, 3.2, 4.0))]
    assert choose(rows) is rows[1]
    assert "is 1.2x faster than fp32" in say(*rows)


def test_bf16_ships_where_it_is_faster_than_int8_and_the_sentence_says_so() -> None:
    rows = [row("fp32", 15.1), row("bf16", 4.73), row("int8-linear", 6.68)]
    assert say(*rows) == (
        "on this CPU, int8-linear on openvino is 1.4x slower than bf16 on openvino: ship bf16 on openvino (p50 4.73 ms)"
    )


def test_bf16_ships_where_int8_is_as_fast_since_it_is_closer_to_fp32() -> None:
    rows = [row("fp32", 15.1), row("int8-linear", 4.65), row("bf16", 4.73)]
    assert choose(rows) is rows[2]


def test_int8_that_is_faster_than_bf16_is_compared_with_that() -> None:
    rows = [row("fp32", 19.0), row("bf16", 11.0), row("int8-linear", 8.0)]
    assert say(*rows).startswith("on this CPU, int8-linear on openvino is 1.4x faster than bf16 on openvino: ship int8")


def test_int8_that_is_faster_than_bf16_but_outside_the_budget_says_why_it_does_not_ship() -> None:
    rows = [row("fp32", 19.0), row("bf16", 11.0), row("int8-linear", 8.0, **missed("cosine.min is 0.97, limit 0.99"))]
    assert say(*rows) == (
        "on this CPU, int8-linear on openvino is 1.4x faster than bf16 on openvino, and "
        "cosine.min is 0.97, limit 0.99: ship bf16 on openvino (p50 11 ms)"
    )


def test_a_run_that_was_only_the_reference_is_not_talked_about() -> None:
    spare = row("fp32", None, reference_only=True)
    assert say(row("int8-nncf", 2.0), spare) == "ship int8-nncf on openvino (p50 2 ms)"


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([row("fp32", 3.0)], "the fastest on this CPU is fp32 on openvino (p50 3 ms)"),
        (
            [row("fp32", 3.0), row("int8-a", 1.5), row("int8-b", None, disqualified="broken")],
            "the fastest on this CPU is int8-a on openvino (p50 1.5 ms), 2.0x faster than fp32 on openvino; "
            "disqualified: int8-b on openvino: broken",
        ),
        (
            [row("fp32", 3.0), row("int8-a", 2.97, (2.9, 3.1, 2.97))],
            "the fastest on this CPU is int8-a on openvino (p50 2.97 ms), about as fast as fp32 on openvino",
        ),
        ([row("fp32", None, disqualified="broken")], "no candidate runs right here: fp32 on openvino: broken"),
    ],
)
def test_without_gates_the_sentence_ranks(rows: list[dict[str, Any]], sentence: str) -> None:
    assert ranking(rows, "CPU") == sentence
