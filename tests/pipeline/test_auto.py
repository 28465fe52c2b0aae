"""`--precision auto`: the budget, the nearest candidate, and a whole search of a small classifier."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgemim.artifact import load_artifact
from edgemim.errors import ConfigError, DataError
from edgemim.pipeline.auto import LEAST_COSINE, LEAST_KNN_AGREEMENT, Evidence, budget, nearest
from edgemim.pipeline.make_bundle import BundleSettings, make_bundle


def test_labels_and_gallery_decide_what_the_budget_is() -> None:
    labelled = Evidence(evaluation=tuple, gallery=None, labelled=True)
    unlabelled = Evidence(evaluation=tuple, gallery=None, labelled=False)
    gallery = Evidence(evaluation=tuple, gallery=tuple, labelled=False)
    assert budget({}, labelled, max_drop=0.005) == {"top1.max_drop": 0.005}
    assert budget({}, unlabelled, max_drop=0.005) == {"cosine.min": LEAST_COSINE}
    expected = {"cosine.min": LEAST_COSINE, "knn_agreement.min": LEAST_KNN_AGREEMENT}
    assert budget({}, gallery, max_drop=0.005) == expected
    assert budget({"p99_ms": 8.0}, labelled, max_drop=0.01) == {"p99_ms": 8.0, "top1.max_drop": 0.01}
    # Who says himself how close is close enough, is taken at his word.
    assert budget({"agreement.min": 0.99}, labelled, max_drop=0.01) == {"agreement.min": 0.99}
    assert budget({"knn_agreement.min": 0.9}, gallery, max_drop=0.01) == {"knn_agreement.min": 0.9}


def _row(name: str, value: float | None, limit: float = 2.0) -> dict[str, object]:
    gate = {"name": "p50_ms", "value": value, "limit": limit, "passed": value is not None and value <= limit}
    return {"name": name, "backend": "openvino", "latency": {"p50_ms": value}, "gates": [gate]}


def test_the_nearest_candidate_misses_by_the_smallest_share() -> None:
    rows = [_row("far", 4.0), _row("near", 2.2), _row("unknown", None)]
    assert nearest(rows) == "the nearest is near on openvino"
    assert nearest([]) == "no candidate could be measured"


def _auto(classifier: Path, classes: Path, out: Path, **values: object) -> list[str]:
    settings = {"precision": "auto", "calibration": str(classes), "calibration_count": 8, "minutes": 0.0, "threads": 1}
    said: list[str] = []
    make_bundle(classifier, out, BundleSettings(**{**settings, **values}), say=said.append)
    return said


@pytest.fixture(scope="module")
def quick() -> object:
    """Few timed runs: how long they take is not the question here."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "_SEARCH_SECONDS": 0.01,
            "_SEARCH_RUNS": 1,
            "_FINAL_SECONDS": 0.01,
            "_FINAL_RUNS": 1,
        }.items():
            patch.setattr(f"edgemim.pipeline.auto.{name}", value)
        yield


def test_a_search_ends_in_a_bundle_that_says_what_won_and_why(
    classifier: Path, classes: Path, tmp_path: Path, quick: object
) -> None:
    _auto(classifier, classes, tmp_path / "bundle", max_drop=1.0)
    content = load_artifact(tmp_path / "bundle", "bundle").content
    choice = content["choice"]
    assert content["gates"] == choice["budget"] == {"top1.max_drop": 1.0}
    assert {"name", "precision", "file", "backend", "options"} == set(choice["chosen"])
    assert (tmp_path / "bundle" / choice["chosen"]["file"]).is_file()
    names = {row["name"] for row in choice["candidates"]}
    assert {"fp32", "int8-linear", "int8-attention"} <= names
    assert all(row["within_budget"] for row in choice["candidates"])
    assert choice["tried"] >= len(choice["candidates"])
    assert "ship" in choice["verdict"]
    # Nothing of the search is left beside the bundle.
    assert os.listdir(tmp_path) == ["bundle"]


def test_a_search_keeps_to_the_placements_that_it_was_given(
    classifier: Path, classes: Path, tmp_path: Path, quick: object
) -> None:
    _auto(classifier, classes, tmp_path / "bundle", max_drop=1.0, placements=("linear",), ranges="max")
    artifact = load_artifact(tmp_path / "bundle", "bundle")
    files = {row["file"] for row in artifact.content["candidates"]}
    assert "int8-linear.onnx" in files
    assert not any("attention" in file for file in files)
    assert {r["settings"]["ranges"] for r in artifact.provenance if r["stage"] == "quantize"} == {"max"}


@pytest.mark.parametrize(
    "limits", [{"p99_ms": 1e6, "energy_mj": 1e9}, pytest.param({"peak_mb": 1e6}, marks=pytest.mark.slow)]
)
def test_every_gate_is_measured_and_what_may_be_missing_is_allowed_to(
    classifier: Path, classes: Path, tmp_path: Path, quick: object, limits: dict[str, float]
) -> None:
    _auto(
        classifier,
        classes,
        tmp_path / "bundle",
        max_drop=1.0,
        placements=("linear",),
        gates=limits,
        allow_unmeasured=("energy_mj",),
    )
    choice = load_artifact(tmp_path / "bundle", "bundle").content["choice"]
    assert choice["budget"] == {**limits, "top1.max_drop": 1.0}
    assert choice["chosen"] is not None
    assert all(row["within_budget"] for row in choice["candidates"])


@pytest.mark.slow
def test_a_search_that_was_cut_off_goes_on(
    classifier: Path, classes: Path, tmp_path: Path, quick: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("edgemim.pipeline.make_bundle.choose_on_this_machine", cut)
        with pytest.raises(KeyboardInterrupt):
            _auto(classifier, classes, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    said = _auto(classifier, classes, tmp_path / "bundle")
    assert any("taken from an earlier call" in line for line in said)
    assert os.listdir(tmp_path) == ["bundle"]


def test_nothing_to_compare_on_is_refused_before_the_work(classifier: Path, classes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give some with --evaluation DATA"):
        _auto(classifier, classes, tmp_path / "bundle", evaluation="none")
    with pytest.raises(ConfigError, match="one image per run"):
        _auto(classifier, classes, tmp_path / "bundle", batch=2)
    assert os.listdir(tmp_path) == []
