"""`edgemim report`: a page from a report folder; parity from the bundle where it still is."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgemim.artifact import load_artifact


@pytest.fixture
def report(story: SimpleNamespace, tmp_path: Path) -> Path:
    """A copy of the story's report, without a page."""
    shutil.copytree(story.report, tmp_path / "report")
    (tmp_path / "report" / "report.html").unlink(missing_ok=True)
    return tmp_path / "report"


def test_the_page_is_written_and_its_path_printed(cli: Any, report: Path) -> None:
    before = load_artifact(report).fingerprint
    done = cli("report", report)
    assert (done.code, done.out) == (0, f"{report / 'report.html'}\n")
    text = (report / "report.html").read_text("utf-8")
    assert text.startswith("<!doctype html>")
    assert "chart-parity" in text, "the bundle is where it was measured"
    assert load_artifact(report).fingerprint == before


def test_as_json(cli: Any, report: Path, story: SimpleNamespace) -> None:
    done = cli("report", report, "--parity", story.bundle, "--json")
    assert done.json == {"page": str(report / "report.html")}


def test_parity_and_sensitivity_come_from_files_of_other_commands(
    cli: Any, report: Path, story: SimpleNamespace, tmp_path: Path
) -> None:
    ladder = cli("inspect", story.bundle, "--parity", "--json")
    (tmp_path / "parity.json").write_text(ladder.out)
    few = ["--calibration-count", "8", "--images", "4", "--placement", "linear"]
    assert cli("sensitivity", story.classifier, *few, "--out", tmp_path / "sensitivity").code == 0
    done = cli("report", report, "--parity", tmp_path / "parity.json", "--sensitivity", tmp_path / "sensitivity")
    assert done.code == 0, done.err
    text = (report / "report.html").read_text("utf-8")
    assert "chart-parity" in text
    assert "chart-sensitivity" in text


def test_without_the_bundle_the_page_says_why_there_is_no_parity(
    cli: Any, report: Path, story: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = story.bundle.rename(story.bundle.with_name("moved"))
    try:
        done = cli("report", report)
    finally:
        moved.rename(story.bundle)
    assert done.code == 0
    text = (report / "report.html").read_text("utf-8")
    assert f"No parity here: {story.bundle} does not exist; give --parity BUNDLE." in text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r.update(schema_version=99), "report.json has schema version 99, this edgemim"),
        (lambda r: r.update(kind="chekc"), "unknown kind 'chekc'"),
    ],
)
def test_a_report_of_another_edgemim_is_refused(cli: Any, report: Path, change: Any, says: str) -> None:
    from edgemim.artifact import create_artifact

    content = json.loads((report / "report.json").read_text())
    change(content)
    with create_artifact(report, "report", overwrite=True) as draft:
        draft.path("report.json").write_text(json.dumps(content))
    done = cli("report", report)
    assert done.code == 2
    assert says in done.err
    assert done.err.count("\n") == 1
    assert not (report / "report.html").exists()


def test_what_is_no_report_is_refused(cli: Any, story: SimpleNamespace, tmp_path: Path, report: Path) -> None:
    for folder, says in ((story.bundle, "is a bundle; here a report is needed"), (tmp_path / "no", "does not exist")):
        done = cli("report", folder)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert says in done.err
    (tmp_path / "bad.json").write_text("{}")
    done = cli("report", report, "--parity", tmp_path / "bad.json")
    assert done.code == 2
    assert "bad.json has no parity ladder; write one: edgemim inspect BUNDLE --parity --json > bad.json" in done.err


def test_without_the_extra_one_line_says_what_to_install(
    cli: Any, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = cli("report", report)
    assert done.code == 2
    assert done.err == (
        "edgemim: report.html needs the package 'matplotlib', which is not installed; "
        "run: pip install 'edgemim[report]'\n"
    )
    assert not (report / "report.html").exists()
