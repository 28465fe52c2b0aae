"""`edgemim.runtime.verdict`: which row ships, and the sentence made from the numbers."""

from __future__ import annotations

from typing import Any

import pytest

from edgemim.runtime.verdict import choose, verdict

VERSUS = "fp32 on openvino"


def row(name: str, p50: float | None, ratio: float = 1.0, **changes: Any) -> dict[str, Any]:
    speed = {"versus": VERSUS, "ratio": ratio, "low": ratio * 0.98, "high": ratio * 1.02}
    plain = {
        "name": name,
        "precision": name[:4],
        "backend": "openvino",
        "reference_only": False,
        "disqualified": None,
        "latency": None if p50 is None else {"p50_ms": p50},
        "speed": None if p50 is None else speed,
        "gates": [],
        "passed": p50 is not None,
    }
    return {**plain, **changes}


def missed(sentence: str) -> dict[str, Any]:
    return {"gates": [{"passed": False, "sentence": sentence}], "passed": False}


def say(*rows: dict[str, Any]) -> str:
    return verdict(rows, choose(rows), "CPU")


def test_the_fastest_row_that_passes_is_chosen() -> None:
    rows = [row("fp32", 3.0), row("int8-a", 1.0, 0.33, **missed("x")), row("int8-b", 2.0, 0.67)]
    assert choose(rows) is rows[2]


def test_fp32_is_chosen_where_int8_is_not_clearly_faster() -> None:
    rows = [row("int8-nncf", 2.9, 0.97), row("fp32", 3.0)]
    assert choose(rows) is rows[1]
    assert say(*rows) == (
        "on this CPU, int8-nncf on openvino is about as fast as fp32 on openvino: ship fp32 on openvino (p50 3 ms)"
    )


def test_int8_is_chosen_where_fp32_is_as_fast_but_misses_a_gate() -> None:
    rows = [row("int8-nncf", 2.9, 0.97), row("fp32", 3.0, **missed("size_mb is 22, limit 10"))]
    assert choose(rows) is rows[0]


def test_nothing_is_chosen_when_nothing_passes() -> None:
    assert choose([row("fp32", 3.0, **missed("x")), row("int8", None)]) is None


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            [row("fp32", 2.0), row("int8-nncf", 2.8, 1.4)],
            "on this CPU, int8-nncf on openvino is 1.4x slower than fp32 on openvino: ship fp32 on openvino (p50 2 ms)",
        ),
        (
            [row("fp32", 3.0), row("int8-nncf", 1.5, 0.5, gates=[{"passed": True, "sentence": ""}])],
            "on this CPU, int8-nncf on openvino is 2.0x faster than fp32 on openvino and passes every gate: "
            "ship int8-nncf on openvino (p50 1.5 ms)",
        ),
        (
            [row("fp32", 3.0), row("int8-nncf", 1.5, 0.5, **missed("top1.max_drop is 0.03, limit 0.01"))],
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


@pytest.mark.parametrize(("ratio", "low", "high"), [(1.04, 1.03, 1.05), (1.3, 0.9, 1.6), (0.97, 0.96, 0.98)])
def test_a_difference_that_is_small_or_not_in_every_round_is_none(ratio: float, low: float, high: float) -> None:
    speed = {"versus": VERSUS, "ratio": ratio, "low": low, "high": high}
    assert "is about as fast as fp32 on openvino" in say(row("fp32", 3.0), row("int8-nncf", 3.1, speed=speed))


def test_a_run_that_was_only_the_reference_is_not_talked_about() -> None:
    spare = row("fp32", None, reference_only=True)
    assert say(row("int8-nncf", 2.0, speed=None), spare) == "ship int8-nncf on openvino (p50 2 ms)"
