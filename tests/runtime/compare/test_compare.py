"""`edgemim.runtime.compare`: the whole comparison on fake backends that take as long as they are told."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgemim.artifact import load_artifact
from edgemim.errors import ConfigError, DeviceError, OutputError
from edgemim.runtime.cache import the_only_check
from edgemim.runtime.report.read import read_report

pytestmark = pytest.mark.usefixtures("no_vendor")

Chosen = Callable[..., Any]
Compared = Callable[..., dict[str, Any]]

hasty = pytest.mark.usefixtures("hasty")


@pytest.mark.slow
def test_a_candidate_that_takes_half_as_long_again_is_found_slower(
    world: SimpleNamespace, chosen: Chosen, compared: Compared
) -> None:
    path = world.bundle()
    report = compared(chosen(path), chosen(path, "int8-nncf", slower_s=0.0001))
    (pair,) = report["pairs"]
    assert (pair["a"], pair["b"], pair["difference"]) == ("int8-nncf on fake", "fp32 on fake", "slower")
    assert 1.01 < pair["low"] < pair["ratio"] < pair["high"]
    assert 1.2 < pair["ratio"] < 1.8
    assert pair["level"] == 0.999
    assert report["verdict"].startswith("int8-nncf on fake takes ")
    assert "more time than fp32 on fake (99.9% interval of the ratio 1." in report["verdict"]


@hasty
def test_the_report_is_an_artifact_that_holds_every_sample(
    world: SimpleNamespace, chosen: Chosen, compared: Compared
) -> None:
    path = world.bundle()
    report = compared(chosen(path), chosen(path, "int8-nncf"))
    assert report == read_report(world.tmp / "report")
    assert (report["kind"], report["passed"], report["protocol"]["mode"]) == ("compare", True, "custom")
    artifact = load_artifact(world.tmp / "report", "report")
    assert artifact.provenance[-1]["stage"] == "compare"
    assert artifact.content["bundle"] == load_artifact(path).fingerprint
    with np.load(world.tmp / "report/samples.npz", allow_pickle=False) as samples:
        for entry in report["entries"]:
            times, starts = samples[f"{entry['label']}.ns"], samples[f"{entry['label']}.start_ns"]
            assert entry["latency"]["n"] == len(times) >= 8
            assert (np.diff(starts) >= times[:-1]).all()
            assert entry["latency"]["p50_ms"] == np.percentile(times, 50, method="inverted_cdf") / 1e6
            turns = samples[f"{entry['label']}.turn"]
            assert report["pairs"][0]["n"] == len(np.unique(turns)) == turns[-1] + 1
        origin = min(samples[f"{entry['label']}.start_ns"][0] for entry in report["entries"])
        assert origin == 0
    assert "int8-nncf on fake" in (world.tmp / "report/report.md").read_text("utf-8")


@hasty
def test_accuracy_is_paired_against_the_first(world: SimpleNamespace, chosen: Chosen, compared: Compared) -> None:
    # The labels are what fp32 answers.
    path = world.bundle(batch=3)
    first, second = compared(chosen(path), chosen(path, "int8-nncf"))["entries"]
    assert (first["accuracy"]["top1"], first["accuracy"]["top1_drop"]) == (1.0, 0.0)
    agreement = second["accuracy"]["agreement"]
    assert second["accuracy"]["n"] == 20
    assert second["accuracy"]["top1"] == agreement == pytest.approx(1 - second["accuracy"]["top1_drop"])
    assert 0.99 < second["accuracy"]["cosine"] < 1


@hasty
def test_other_images_are_refused_unless_only_the_latency_counts(
    world: SimpleNamespace, chosen: Chosen, compared: Compared
) -> None:
    one, other = world.bundle(), world.bundle(name="other", evaluation=world.labelled(7))
    with pytest.raises(ConfigError, match=r"carry different evaluation images, .*compare without them: --latency-only"):
        compared(chosen(one), chosen(other))
    report = compared(chosen(one), chosen(other), latency_only=True)
    assert [entry["accuracy"] for entry in report["entries"]] == [None, None]
    assert [entry["label"] for entry in report["entries"]] == ["bundle: fp32 on fake", "other: fp32 on fake"]


@hasty
def test_a_bundle_without_images_leaves_the_accuracy_out_and_says_so(
    world: SimpleNamespace, chosen: Chosen, compared: Compared
) -> None:
    report = compared(chosen(world.bundle()), chosen(world.bundle(name="bare", evaluation=None)))
    assert report["entries"][0]["accuracy"] is None
    assert (
        "accuracy was not compared: the bundle of bare: fp32 on fake carries no evaluation images" in report["caveats"]
    )


@pytest.mark.parametrize("options", [{"batch": 2}, {"encoding": "pixels"}])
def test_other_inputs_are_refused(world: SimpleNamespace, chosen: Chosen, compared: Compared, options: Any) -> None:
    one, other = world.bundle(), world.bundle(name="other", **options)
    with pytest.raises(ConfigError, match=r"fp32 on fake takes 1 x 8 x 8 normalised, .* run: edgemim bench"):
        compared(chosen(one), chosen(other))


@pytest.mark.parametrize(
    ("fault", "told"), [("wrong", "its outputs differ from the golden ones"), ("run", "out of memory")]
)
def test_what_computes_something_else_is_not_compared(
    world: SimpleNamespace, chosen: Chosen, compared: Compared, fault: str, told: str
) -> None:
    path = world.bundle()
    good, bad = chosen(path, "int8-nncf"), chosen(path, fault=fault)
    with pytest.raises(DeviceError, match=f"fp32 on fake cannot be compared: .*{told}"):
        compared(good, bad)
    assert all(session.closed for choice in (good, bad) for session in choice.pair.backend.sessions)
    assert not (world.tmp / "report").exists()


@hasty
def test_engines_are_opened_anew_and_all_are_closed(world: SimpleNamespace, chosen: Chosen, compared: Compared) -> None:
    path = world.bundle(evaluation=None)
    choices = [chosen(path), chosen(path, "int8-nncf")]
    report = compared(*choices)
    openings = report["protocol"]["openings"]
    for choice, entry in zip(choices, report["entries"], strict=True):
        sessions = choice.pair.backend.sessions
        assert len(sessions) == openings + 1  # the first to see that it is right
        assert all(session.closed for session in sessions)
        assert len(entry["latency"]["round_p50_ms"]) == openings


@hasty
def test_three_are_compared_with_the_first_and_the_same_one_twice_is_numbered(
    world: SimpleNamespace, chosen: Chosen, compared: Compared
) -> None:
    path, told = world.bundle(evaluation=None), []
    given = (chosen(path), chosen(path), chosen(path, "int8-nncf"))
    report = compared(*given, progress=lambda done, total: told.append((done, total)))
    assert [entry["label"] for entry in report["entries"]] == [
        "fp32 on fake #1",
        "fp32 on fake #2",
        "int8-nncf on fake",
    ]
    assert [pair["a"] for pair in report["pairs"]] == ["fp32 on fake #2", "int8-nncf on fake"]
    assert {pair["b"] for pair in report["pairs"]} == {"fp32 on fake #1"}
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]


@hasty
def test_a_folder_that_exists_and_a_check_that_is_running_are_respected(
    world: SimpleNamespace, chosen: Chosen, compared: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = world.bundle(evaluation=None)
    both = (chosen(path), chosen(path, "int8-nncf"))
    monkeypatch.setattr("edgemim.runtime.cache._PATIENCE_S", 0.1)
    with the_only_check(world.tmp / "cache"), pytest.raises(ConfigError, match="another check is running"):
        compared(*both)
    compared(*both)
    with pytest.raises(OutputError, match="exists"):
        compared(*both)
    compared(*both, overwrite=True)
