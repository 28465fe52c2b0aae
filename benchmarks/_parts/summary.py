"""The summary of a comparison: every row, differences to the baselines, and what may be claimed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from .comparison import BASELINES, TEACHER
from .intervals import CONFIDENCE, FEWEST_SEEDS, claim, described, difference

METRICS = ("top1", "linear_top1", "knn_top1")
# The order that was expected before anything was run, from the weakest to the strongest.
_EXPECTED = (
    ("mae", "scratch"),
    ("feature", "scratch"),
    ("dmae", "scratch"),
    ("feature", "mae"),
    ("dmae", "mae"),
    ("mae", "scratch-long"),
    ("feature", "scratch-long"),
    ("dmae", "scratch-long"),
    ("dmae", "feature"),
)
CAVEATS = (
    "An interval is a 95 % t-interval over seeds; a seed changes initial weights, order, crops and masks.",
    "All seeds learn from one teacher and are tested on the same images: neither is part of the interval.",
    "The claims are not corrected for being several.",
    "Learning rate and crops of the small recipes were once picked on these test images, for the quickstart.",
    "Updates are equal, not time: what an update of each method costs is measured apart.",
    "The lengths are short; the order after a long training may be another one.",
)


def summarise(
    results: Sequence[Mapping[str, Any]], *, missing: Sequence[str], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """All that the tables show.

    Args:
        results: Of the runs that are done, the teacher's among them.
        missing: Labels of those that are not.
        facts: Of the whole comparison, kept as they are.
    """
    students = [r for r in results if r["name"] != TEACHER]
    scores = {metric: _by_row(students, metric) for metric in METRICS}
    rows = [_row(name, students, scores) for name in _in_order({str(r["name"]) for r in students})]
    ranked = [row for row in rows if len(row["seeds"]) >= FEWEST_SEEDS]
    return {
        **facts,
        "confidence": CONFIDENCE,
        "caveats": list(CAVEATS),
        "missing": list(missing),
        "teacher": next((_teacher(r) for r in results if r["name"] == TEACHER), None),
        "ranked": ranked,
        "not_ranked": [row for row in rows if len(row["seeds"]) < FEWEST_SEEDS],
        "claims": [{"metric": "top1", **claim(*pair, scores["top1"])} for pair in _pairs(scores["top1"])],
        "machine": _machine(results),
    }


def _row(name: str, students: Sequence[Mapping[str, Any]], scores: Mapping[str, Any]) -> dict[str, Any]:
    runs = [r for r in students if r["name"] == name]
    row: dict[str, Any] = {
        "name": name,
        "method": runs[0]["method"],
        "seeds": sorted(r["seed"] for r in runs),
        "student_updates": runs[0]["student_updates"],
        "images_seen": runs[0]["images_seen"],
    }
    for metric in METRICS:
        of_row = scores[metric].get(name)
        row[metric] = described(of_row) if of_row else None
        for baseline in ("scratch", "mae"):
            other = scores[metric].get(baseline)
            compared = difference(of_row, other) if of_row and other and name != baseline else None
            enough = compared is not None and len(compared["seeds"]) >= FEWEST_SEEDS
            row[f"{metric}_minus_{baseline}"] = compared if enough else None
    return row


def _pairs(scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The expected order first; then every other row with seeds enough against MAE alone and scratch."""
    others = [name for name in scores if len(scores[name]) >= FEWEST_SEEDS and name not in BASELINES]
    more = [(name, baseline) for name in sorted(others) for baseline in ("mae", "scratch")]
    return [*_EXPECTED, *[pair for pair in more if pair not in _EXPECTED]]


def _by_row(students: Sequence[Mapping[str, Any]], metric: str) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for result in students:
        if metric in result:
            found[result["name"]][result["seed"]] = result[metric]
    return dict(found)


def _in_order(names: set[str]) -> list[str]:
    return [*[n for n in BASELINES if n in names], *sorted(names - set(BASELINES))]


def _teacher(result: Mapping[str, Any]) -> dict[str, Any]:
    updates = {stage["folder"]: stage["updates"] for stage in result["stages"]}
    return {metric: result.get(metric) for metric in METRICS} | {"updates": updates}


def _machine(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Where it was run: each fact once; several where the runs differ."""
    names = ("cpu", "gpu")
    return {
        **{name: sorted({str(r["device"][name]) for r in results if r["device"][name]}) for name in names},
        "commits": sorted({str(r["commit"]) for r in results}),
        "threads": sorted({r["threads"] for r in results}),
        "precision": sorted({r["precision"] for r in results}),
        "versions": results[-1]["versions"] if results else {},
    }
