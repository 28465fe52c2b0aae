"""The front of latency and closeness."""

from __future__ import annotations

from edgemim.quantize.search.pareto import closeness, pareto_front


def _row(name, ms, top1=None, cosine=0.9):
    latency = None if ms is None else {"p50_ms": ms}
    return {"name": name, "latency": latency, "accuracy": {"top1": top1, "cosine": cosine}}


def test_only_rows_that_nothing_beats_are_on_the_front():
    rows = [
        _row("slow and best", 9.0, 0.80),
        _row("slower and worse", 9.5, 0.79),
        _row("fast and good", 3.0, 0.78),
        _row("as fast and worse", 3.0, 0.70),
        _row("fastest and bad", 1.0, 0.50),
        _row("not measured", None, 0.99),
    ]
    assert [row["name"] for row in pareto_front(rows)] == ["fastest and bad", "fast and good", "slow and best"]


def test_without_labels_the_cosine_decides():
    assert closeness(_row("a", 1.0, None, 0.97)) == 0.97
    assert closeness(_row("a", 1.0, 0.6, 0.97)) == 0.6
    assert closeness({"name": "a", "latency": None, "accuracy": None}) is None
