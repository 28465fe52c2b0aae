"""The summary of a comparison: every row, differences to the baselines, and what may be claimed.

Rows are held against each other in four lists: ViTs with the same number of updates, ViTs in the same time, and the
same of convnets.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from .comparison import TEACHER, TIMED, is_convnet
from .intervals import CONFIDENCE, FEWEST_SEEDS, claim, described, difference
from .presets import BASELINES, CONVNET_BASELINES, CONVNET_REFERENCE, REFERENCE

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
_EXPECTED_OF_CONVNETS = (
    ("spark", "scratch-convnet"),
    ("spark-dmae", "scratch-convnet"),
    ("spark-dmae", "spark"),
    ("spark", "scratch-long-convnet"),
    ("spark-dmae", "scratch-long-convnet"),
)
# `scratch-convnet` is not run again: it has no updates but those of fine-tuning.
_EXPECTED_OF_CONVNETS_IN_TIME = tuple(pair for pair in _EXPECTED_OF_CONVNETS if "scratch-convnet" not in pair)
CAVEATS = (
    "An interval is a 95 % t-interval over seeds; a seed changes initial weights, order, crops and masks.",
    "All seeds learn from one teacher and are tested on the same images: neither is part of the interval.",
    "The claims are not corrected for being several.",
    "Learning rate and crops of the small recipes were once picked on these test images, for the quickstart.",
    "Where updates are equal time is not, and where time is equal it is that of the updates alone.",
    "The lengths are short; the order after a long training may be another one.",
)

Scores = Mapping[str, Mapping[str, Mapping[int, float]]]  # metric to row to seed to score


def summarise(
    results: Sequence[Mapping[str, Any]],
    *,
    missing: Sequence[str],
    facts: Mapping[str, Any],
    alike: Collection[str] = (),
) -> dict[str, Any]:
    """All that the tables show.

    Args:
        results: Of the runs that are done, the teacher's among them.
        missing: Labels of those that are not.
        facts: Of the whole comparison, kept as they are.
        alike: Rows whose updates take as long as those of MAE, or of SparK: they stand among those in the same time as
            they are.
    """
    students = [r for r in results if r["name"] != TEACHER]
    scores = {metric: _by_row(students, metric) for metric in METRICS}
    names = {str(r["name"]) for r in students}
    convnets, timed = {n for n in names if is_convnet(n)}, {n for n in names if n.endswith(TIMED)}

    def rows_of(some: Collection[str], baselines: Sequence[str]) -> list[dict[str, Any]]:
        return [_row(name, students, scores, baselines) for name in _in_order(some)]

    def in_time(some: set[str]) -> set[str]:
        return some | (set(alike) & names) if some else set()

    vits = rows_of(names - convnets - timed, ("scratch", "mae"))
    return {
        **facts,
        "confidence": CONFIDENCE,
        "caveats": list(CAVEATS),
        "missing": list(missing),
        "teacher": next((_teacher(r) for r in results if r["name"] == TEACHER), None),
        "ranked": [row for row in vits if len(row["seeds"]) >= FEWEST_SEEDS],
        "not_ranked": [row for row in vits if len(row["seeds"]) < FEWEST_SEEDS],
        "timed": rows_of(in_time(timed - convnets) - convnets, (REFERENCE,)),
        "convnets": rows_of(convnets - timed, ("scratch-convnet",)),
        "timed_convnets": rows_of(in_time(timed & convnets) & convnets, (CONVNET_REFERENCE,)),
        "claims": _claims(_pairs(scores["top1"], names - convnets - timed), scores),
        "timed_claims": _claims(_timed_pairs(scores["top1"], timed - convnets, alike), scores),
        "convnet_claims": _claims(_EXPECTED_OF_CONVNETS, scores) if convnets else [],
        "timed_convnet_claims": _claims(_in_time(_EXPECTED_OF_CONVNETS_IN_TIME, alike), scores)
        if timed & convnets
        else [],
        "machine": _machine(results),
    }


def _row(name: str, students: Sequence[Mapping[str, Any]], scores: Scores, baselines: Sequence[str]) -> dict[str, Any]:
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
        for baseline in baselines:
            other = scores[metric].get(baseline)
            compared = difference(of_row, other) if of_row and other and name != baseline else None
            enough = compared is not None and len(compared["seeds"]) >= FEWEST_SEEDS
            row[f"{metric}_minus_{baseline}"] = compared if enough else None
    return row


def _claims(pairs: Sequence[tuple[str, str]], scores: Scores) -> list[dict[str, Any]]:
    return [{"metric": "top1", **claim(*pair, scores["top1"])} for pair in pairs]


def _pairs(scores: Mapping[str, Mapping[int, float]], names: Collection[str]) -> list[tuple[str, str]]:
    """The expected order first; then every other row with seeds enough against MAE alone and scratch."""
    others = [name for name in _enough(scores, names) if name not in BASELINES]
    more = [(name, baseline) for name in others for baseline in ("mae", "scratch")]
    return [*_EXPECTED, *[pair for pair in more if pair not in _EXPECTED]]


def _timed_pairs(
    scores: Mapping[str, Mapping[int, float]], names: Collection[str], alike: Collection[str]
) -> list[tuple[str, str]]:
    """The expected order of what was run in the same time; then every other row with seeds enough against MAE."""
    found = _enough(scores, {*names, *alike})
    expected = [pair for pair in _in_time(_EXPECTED, alike) if set(pair) <= set(found)]
    known = {name for pair in expected for name in pair}
    return [*expected, *[(name, REFERENCE) for name in _enough(scores, names) if name not in known]]


def _in_time(pairs: Sequence[tuple[str, str]], alike: Collection[str]) -> list[tuple[str, str]]:
    """The same claims of the runs in the same time."""
    name = {row: row if row in alike else f"{row}{TIMED}" for pair in pairs for row in pair}
    return [(name[better], name[worse]) for better, worse in pairs]


def _enough(scores: Mapping[str, Mapping[int, float]], names: Collection[str]) -> list[str]:
    """Those with seeds enough for a claim."""
    return sorted(name for name in names if len(scores.get(name, {})) >= FEWEST_SEEDS)


def _by_row(students: Sequence[Mapping[str, Any]], metric: str) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for result in students:
        if metric in result:
            found[result["name"]][result["seed"]] = result[metric]
    return dict(found)


def _in_order(names: Collection[str]) -> list[str]:
    baselines = [name for name in (*BASELINES, *CONVNET_BASELINES) if name in names]
    return [*baselines, *sorted(set(names) - set(baselines))]


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
