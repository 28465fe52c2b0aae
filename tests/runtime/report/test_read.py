"""Reports of every schema so far are read; what is newer or no report is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgemim import __version__
from edgemim.artifact import create_artifact
from edgemim.errors import ArtifactError
from edgemim.runtime.check import check_bundle
from edgemim.runtime.report.markdown import render_markdown
from edgemim.runtime.report.read import SCHEMA_VERSION, read_report


def keys_of(value: Any) -> set[str]:
    return set(value or ())


def test_a_check_of_schema_1_is_read_with_the_keys_of_today(
    old_report: Callable[..., Path], world: SimpleNamespace, quick: None, no_vendor: None
) -> None:
    old = read_report(old_report("check"))
    new = check_bundle(
        world.bundle(gates={"p50_ms": 1e-9}),
        world.tmp / "new",
        backends=[world.Fake()],
        seconds=0,
        runs=64,
        cache=world.tmp / "cache",
    )
    assert old["schema_version"] == new["schema_version"] == SCHEMA_VERSION
    assert (old["kind"], old["created"], old["edgemim"]) == ("check", "2026-11-21T20:10:49+00:00", "0.1.0")
    assert keys_of(old) == keys_of(new)
    for part in ("bundle", "preprocessing"):
        assert keys_of(old[part]) == keys_of(new[part])
    ours, theirs = old["candidates"][0], new["candidates"][0]
    assert keys_of(ours) == keys_of(theirs)
    for part in ("latency", "accuracy"):
        assert keys_of(ours[part]) == keys_of(theirs[part])
    assert keys_of(ours["gates"][0]) == keys_of(theirs["gates"][0])


def test_what_schema_1_measured_is_kept_and_what_it_did_not_is_null(old_report: Callable[..., Path]) -> None:
    path = old_report("check")
    stored, read = json.loads((path / "report.json").read_text()), read_report(path)
    for before, after in zip(stored["candidates"], read["candidates"], strict=True):
        assert after["latency"] == {**after["latency"], **before["latency"]}
        assert after["accuracy"] == {**after["accuracy"], **before["accuracy"]}
        assert (after["memory"], after["cold_start"]) == (None, None)
        assert (after["latency"]["p90_estimate_ms"], after["accuracy"]["enough"]) == (None, None)
    assert (read["environment"], read["flips"], read["protocol"]["mode"]) == (None, [], None)
    assert read["bundle"]["evaluation"] is None
    assert not any(gate["allowed_unmeasured"] for gate in read["gates"].values())


def test_boards_of_schema_1_are_read(old_report: Callable[..., Path]) -> None:
    path = old_report("boards")
    stored, read = json.loads((path / "report.json").read_text()), read_report(path)
    assert read["kind"] == "boards"
    assert read["devices"] == stored["devices"]


@pytest.mark.parametrize("name", ["check", "bench", "compare", "sweep"])
def test_what_schema_2_said_is_kept(old_report: Callable[..., Path], name: str) -> None:
    path = old_report(name, schema=2)
    stored, read = json.loads((path / "report.json").read_text()), read_report(path)
    assert stored["schema_version"] == 2
    assert read["schema_version"] == SCHEMA_VERSION
    assert_contains(read, {key: value for key, value in stored.items() if key != "schema_version"})


def assert_contains(read: Any, stored: Any) -> None:
    """All that was stored is there, with its value."""
    if isinstance(stored, dict):
        for key, value in stored.items():
            assert_contains(read[key], value)
    elif isinstance(stored, list):
        assert len(read) == len(stored)
        for mine, theirs in zip(read, stored, strict=True):
            assert_contains(mine, theirs)
    else:
        assert read == stored


OLD = [(1, "check"), (1, "boards"), (2, "check"), (2, "bench"), (2, "compare"), (2, "sweep")]


@pytest.mark.parametrize(("schema", "name"), OLD)
def test_old_reports_have_a_page(old_report: Callable[..., Path], schema: int, name: str) -> None:
    report = read_report(old_report(name, schema=schema))
    page = render_markdown(report)
    assert page.startswith("# ")
    assert report["verdict"][1:] in page
    assert "None" not in page


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 0, "2", None, True, 2.0])
def test_another_schema_is_refused_with_both_versions(old_report: Callable[..., Path], version: object) -> None:
    path = old_report("check", lambda report: report.update(schema_version=version))
    with pytest.raises(ArtifactError) as caught:
        read_report(path)
    message = str(caught.value)
    assert f"schema version {version!r}, this edgemim {__version__} reads 1 to {SCHEMA_VERSION}" in message
    assert "\n" not in message


def test_an_unknown_kind_is_refused_with_those_that_are_known(old_report: Callable[..., Path]) -> None:
    path = old_report("check", lambda report: report.update(kind="chekc", schema_version=SCHEMA_VERSION))
    with pytest.raises(ArtifactError, match=r"unknown kind 'chekc'; known: check, bench, compare, sweep, boards"):
        read_report(path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\ufeff{}"])
def test_what_is_no_report_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    with create_artifact(tmp_path / "report", "report") as draft:
        draft.path("report.json").write_text(text, "utf-8")
    with pytest.raises(ArtifactError) as caught:
        read_report(tmp_path / "report")
    assert "\n" not in str(caught.value)


def test_a_report_of_something_else_says_what_it_lacks(tmp_path: Path) -> None:
    with create_artifact(tmp_path / "sensitivity", "report") as draft:
        draft.path("sensitivity.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"has no file 'report\.json'; it has \['sensitivity\.json'\]"):
        read_report(tmp_path / "sensitivity")


def test_a_page_beside_the_report_does_not_disturb_it(old_report: Callable[..., Path]) -> None:
    path = old_report("check")
    (path / "report.html").write_text("<p>anything")
    assert read_report(path)["kind"] == "check"
