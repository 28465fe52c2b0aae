"""report.md of every kind: the verdict first, columns only where there are numbers, doubts named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgemim.runtime.bench import bench_bundles
from edgemim.runtime.report.cells import doubts, p_value, sentence, too_few_images
from edgemim.runtime.report.markdown import render_markdown
from edgemim.runtime.report.read import read_report
from edgemim.runtime.settings import CheckSettings


@pytest.fixture
def old(old_report: Callable[..., Path]) -> dict[str, Any]:
    """A real check of six candidates; what schema 2 added is null in it."""
    return read_report(old_report("check"))


def with_all(report: dict[str, Any]) -> dict[str, Any]:
    """The same with a value in every column that schema 2 added; none of them measured."""
    full = copy.deepcopy(report)
    for row in full["candidates"]:
        row["latency"] |= {"p90_estimate_ms": 0.777, "with_preprocessing": {"n": 64, "p50_ms": 1.234, "p90_ms": 1.5}}
        row["cold_start"] = {"import_s": 0.25, "load_s": 0.5, "first_ms": 9.9, "reason": None}
        row["memory"] = {"peak_mb": 123.4, "base_mb": 40.1, "device_mb": None, "device_reason": None, "reason": None}
        row["accuracy"] |= {"top5": 0.9876, "top5_drop": 0.0, "mcnemar_p": 0.0001, "cka": 0.99, "enough": False}
        row["accuracy"] |= {"top1_drop_low": -0.0123, "top1_drop_high": 0.0456, "resolution": 0.029}
        row["accuracy"] |= {"cosine_worst_1pct": 0.95, "flips": {"to_wrong": 7, "to_right": 2, "other": 1}}
    return full


def lines_after(page: str, heading: str) -> list[str]:
    return page.split(f"## {heading}\n\n")[1].split("\n\n")[0].splitlines()


def test_columns_without_a_number_are_left_out(old: dict[str, Any]) -> None:
    page = render_markdown(old)
    assert "p90 estimate" not in page
    assert "## Against fp32" not in page
    assert "## Cold start and memory" not in page


def test_every_number_that_schema_2_added_is_shown(old: dict[str, Any]) -> None:
    page = render_markdown(with_all(old))
    head, _, first, *_ = lines_after(page, "Candidates")
    assert "| p90 estimate ms | with preprocessing p50 ms |" in head
    assert "| 0.777 | 1.234 |" in first
    head, _, first, *_ = lines_after(page, "Against fp32")
    assert head.startswith("| candidate | backend | top-5 | top-1 lost | 95 % interval |")
    assert "| 0.9876 |" in first
    assert "| -0.0123 to 0.0456 | 7 / 2 / 1 | < 0.001 | 0.95000 | 0.99000 |" in first
    _, _, first, *_ = lines_after(page, "Cold start and memory")
    assert "| 0.25 | 0.50 | 9.9 | 123.4 | 40.1 | - |" in first


def test_too_few_images_are_one_remark_that_names_all(old: dict[str, Any]) -> None:
    rows = with_all(old)["candidates"]
    (text,) = too_few_images(rows)
    # The limit of the gate on the drop is what has to be told.
    assert text.startswith("not enough images to tell 2 points of top-1: 360")
    assert text.count("± 2.9 (") == len(rows)
    assert too_few_images(old["candidates"]) == []
    assert f"- N{text[1:]}." in render_markdown(with_all(old))
    for row in rows:
        row["gates"] = []
    assert too_few_images(rows)[0].startswith("not enough images to tell 0.5 points of top-1: 360")


def test_a_mark_of_the_environment_is_told_once(old: dict[str, Any]) -> None:
    mark = "the CPU clock moved while measuring"
    report = old | {"environment": {"before": {}, "after": {}, "marks": [mark]}, "caveats": [mark, "x"]}
    assert doubts(report) == [mark, "x"]
    assert render_markdown(report).count("The CPU clock moved while measuring.") == 1


def test_a_gate_that_may_go_unmeasured_is_neither_kept_nor_missed(old: dict[str, Any]) -> None:
    report = copy.deepcopy(old)
    for row in report["candidates"]:
        for gate in row["gates"]:
            gate |= {"passed": True, "value": None, "reason": "nobody looked"}
    gates = lines_after(render_markdown(report), "Gates")[2:]
    assert gates
    assert all("| nobody looked | not measured, allowed |" in line for line in gates)


def test_a_bench_of_two_bundles_names_both_and_has_no_gates(
    world: SimpleNamespace, quick: None, no_vendor: None
) -> None:
    bundles = [world.bundle(name=name) for name in ("one", "two")]
    settings = CheckSettings(backends=[world.Fake()], seconds=0, runs=64)
    report = bench_bundles(bundles, world.tmp / "bench", settings, cache=world.tmp / "cache")
    page = render_markdown(report)
    assert page.splitlines()[0].endswith(report["device"]["cpu"] or report["device"]["machine"])
    assert "## Gates" not in page
    assert all(f"| {name}:fp32 | fake |" in page for name in ("one", "two"))
    assert all(bundle["fingerprint"][:16] in page for bundle in report["bundles"])
    assert "one:fp32 on fake and two:fp32 on fake" in page


def test_a_comparison_says_what_differs_and_how_sure_that_is(
    world: SimpleNamespace, no_vendor: None, chosen: Any, compared: Any, hasty: None
) -> None:
    path = world.bundle()
    report = compared(chosen(path), chosen(path, "int8-nncf", slower_s=0.002))
    page = render_markdown(report)
    assert page.splitlines()[2] == f"**{sentence(report['verdict'])}**"
    (_, _, row) = lines_after(page, "Differences")
    (pair,) = report["pairs"]
    assert row.startswith(f"| int8-nncf on fake | fp32 on fake | {pair['ratio']:.3f} | {pair['low']:.3f} to ")
    assert "bootstrap at 99.9%" in page


def test_a_sweep_shows_the_front_first_and_why_something_failed() -> None:
    entry = {"model": "small", "source": "random weights", "input": [224, 224], "candidate": "fp32"}
    entry |= {"backend": "openvino", "latency": {"p50_ms": 1.5, "p99_ms": None}, "accuracy": None}
    entry |= {"accuracy_reason": "random weights", "size_bytes": 2_000_000, "parameters": 1000, "error": None}
    slow = entry | {"model": "large", "input": [224, 192], "side_by_side": {"p50_ms": 9.25, "p99_ms": 9.5}}
    failed = entry | {"model": "odd", "latency": None, "candidate": None, "backend": None, "error": "no such operator"}
    report = {"kind": "sweep", "verdict": "within 4 ms: small", "target": "x86", "front": [0], "caveats": []}
    report |= {"budget": {"max_ms": 4.0, "minutes": None}, "entries": [entry, slow, failed], "device": {"cpu": "C"}}
    page = render_markdown(report)
    assert page.startswith("# 3 models for x86\n\n**Within 4 ms: small.**\n\nBudget: max_ms 4.0.")
    (_, _, front) = lines_after(page, "The front")
    assert front == "| small | random weights | 224 | fp32 | openvino | 1.500 | - | - | 1,000 | 2.00 | alone |"
    others = lines_after(page, "The others")[2:]
    assert "| 224x192 | fp32 | openvino | 9.250 | 9.500 |" in others[0]
    assert others[1].endswith("| no such operator |")
    assert "- Random weights." in page


@pytest.mark.parametrize(("value", "shown"), [(None, "-"), (1.0, "1.000"), (0.0421, "0.042"), (1e-9, "< 0.001")])
def test_p_values_are_not_more_exact_than_they_are_useful(value: float | None, shown: str) -> None:
    assert p_value(value) == shown
