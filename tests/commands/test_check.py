"""`edgemim check`: its exit code is the gates' and nothing else's."""

from __future__ import annotations

import os
import shutil
from types import SimpleNamespace
from typing import Any

import pytest

from edgemim.errors import ArtifactError, MissingDependencyError


def test_a_missed_gate_is_exit_code_1_and_the_report_is_written(
    cli: Any, story: SimpleNamespace, tmp_path: Any, options: SimpleNamespace
) -> None:
    one = ["--candidate", "fp32", "--backend", "onnxruntime", *options.check]
    done = cli("check", story.bundle, *one, "--gate", "p50_ms=0.000001", "--out", tmp_path / "report", "--json")
    assert done.code == 1
    assert done.json["passed"] is False
    assert done.json["chosen"] is None
    (row,) = [row for row in done.json["candidates"] if not row["reference_only"]]
    assert [gate["name"] for gate in row["gates"] if not gate["passed"]] == ["p50_ms"]
    (line,) = done.err.splitlines()
    assert line.startswith("nothing ships: ")
    assert "limit 1e-06" in line
    assert (tmp_path / "report" / "report.md").is_file()


def test_people_read_the_report_itself(
    cli: Any, story: SimpleNamespace, tmp_path: Any, options: SimpleNamespace
) -> None:
    one = ["--candidate", "int8-linear", "--backend", "openvino", *options.check]
    done = cli("check", story.bundle, *one, "--gate", "top1.max_drop=1", "--out", tmp_path / "report")
    assert done.code == 0, done.err
    assert done.out.strip() == (tmp_path / "report" / "report.md").read_text("utf-8").strip()
    assert "int8-linear" in done.out


def test_without_out_the_report_lies_beside_the_bundle(
    cli: Any, story: SimpleNamespace, tmp_path: Any, options: SimpleNamespace
) -> None:
    (tmp_path / "mine").symlink_to(story.bundle)
    one = ["--candidate", "fp32", "--backend", "onnxruntime", *options.check]
    done = cli("check", tmp_path / "mine", *one, "--json")
    assert done.code == 0, done.err
    assert done.json["report"] == str(tmp_path / "mine-report")
    assert (tmp_path / "mine-report" / "report.json").is_file()


def test_the_bundle_is_not_changed_by_a_check(cli: Any, story: SimpleNamespace) -> None:
    assert cli("inspect", story.bundle, "--json").json["fingerprint"] == story.check_done.json["bundle"]["fingerprint"]


def test_several_candidates_may_stand_in_one_option_and_rebuild_is_passed_on(
    cli: Any, story: SimpleNamespace, tmp_path: Any, options: SimpleNamespace
) -> None:
    one = ["--candidates", "fp32,int8-linear", "--backend", "openvino", "--rebuild", *options.check]
    done = cli("check", story.bundle, *one, "--out", tmp_path / "report", "--json")
    assert done.code == 0, done.err
    rows = [row for row in done.json["candidates"] if not row["reference_only"]]
    assert [row["name"] for row in rows] == ["fp32", "int8-linear"]
    assert not any(row["compiled_before"] for row in rows)


@pytest.mark.parametrize("device", ["nano", "ssh://", "ssh://-oProxyCommand=reboot", "ssh://nano?pyhton=python3"])
def test_what_is_no_device_is_refused_before_anything_is_done(cli: Any, tmp_path: Any, device: str) -> None:
    done = cli("check", tmp_path / "none", "--device", device)
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("edgemim: a device is ssh://[user@]host[:port][/folder][?python=INTERPRETER]; got ")


def test_budgets_may_come_from_a_file_and_the_command_line_wins(
    cli: Any, story: SimpleNamespace, tmp_path: Any, options: SimpleNamespace
) -> None:
    file = tmp_path / "budget.toml"
    file.write_text('p50_ms = 1e-6\nsize_mb = 100\nenergy_mj = 5\nallow_unmeasured = ["energy_mj"]\n', "utf-8")
    one = ["--candidate", "fp32", "--backend", "onnxruntime", *options.check, "--gates", file, "--json"]
    done = cli("check", story.bundle, *one, "--gate", "p50_ms=1000", "--out", tmp_path / "report")
    assert done.code == 0, done.err
    gates = done.json["gates"]
    assert (gates["p50_ms"]["limit"], gates["size_mb"]["limit"]) == (1000, 100)
    assert gates["energy_mj"]["allowed_unmeasured"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("p99 = 8\n", ("unknown gate 'p99'", "did you mean 'p99_ms'")),
        ("p99_ms = \n", ("budget.toml is not valid TOML",)),
    ],
)
def test_a_file_of_budgets_that_cannot_be_used_is_one_line(
    cli: Any, story: SimpleNamespace, tmp_path: Any, text: str, words: tuple[str, ...]
) -> None:
    (tmp_path / "budget.toml").write_text(text, "utf-8")
    done = cli("check", story.bundle, "--gates", tmp_path / "budget.toml", "--out", tmp_path / "report")
    (line,) = done.err.splitlines()
    assert done.code == 2
    assert all(word in line for word in words)
    assert not (tmp_path / "report").exists()


def test_an_unknown_mode_names_the_nearest(cli: Any, story: SimpleNamespace, tmp_path: Any) -> None:
    done = cli("check", story.bundle, "--mode", "standart", "--out", tmp_path / "report")
    assert (done.code, done.out) == (2, "")
    assert "unknown mode 'standart'; did you mean 'standard'" in done.err


def test_a_page_is_drawn_beside_the_report(
    cli: Any, story: SimpleNamespace, tmp_path: Any, options: SimpleNamespace
) -> None:
    one = ["--candidate", "fp32", "--backend", "onnxruntime", *options.check, "--page"]
    done = cli("check", story.bundle, *one, "--out", tmp_path / "report")
    assert done.code == 0, done.err
    assert done.err.splitlines()[-1] == f"to look at: {tmp_path / 'report' / 'report.html'}"
    assert (tmp_path / "report" / "report.html").read_text("utf-8").startswith("<!doctype html>")
    assert cli("inspect", tmp_path / "report").code == 0


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ArtifactError("report.json was altered"), "report.json was altered"),
        (OSError(28, "No space left on device", "report.html"), "No space left on device"),
        (ValueError("no font was found"), "no font was found"),
        (MissingDependencyError("drawing", "matplotlib", "report"), "where the extra is installed"),
    ],
)
def test_a_page_that_cannot_be_drawn_is_a_remark_and_the_verdict_keeps_its_exit_code(
    cli: Any,
    story: SimpleNamespace,
    tmp_path: Any,
    options: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    told: str,
) -> None:
    def fail(_: Any) -> None:
        raise error

    monkeypatch.setattr("edgemim.report.html.write_html", fail)
    one = ["--candidate", "fp32", "--backend", "onnxruntime", *options.check, "--page", "--gate", "p50_ms=0.000001"]
    done = cli("check", story.bundle, *one, "--out", tmp_path / "report", "--json")
    assert done.code == 1
    assert done.json["passed"] is False
    verdict, remark = done.err.splitlines()
    assert verdict.startswith("nothing ships: ")
    assert told in remark
    assert f"edgemim report {tmp_path / 'report'}" in remark


@pytest.mark.parametrize("given", [".", "../bundle/"])
def test_a_check_of_the_folder_that_one_is_in_lies_beside_it(
    cli: Any,
    story: SimpleNamespace,
    tmp_path: Any,
    options: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    given: str,
) -> None:
    shutil.copytree(story.bundle, tmp_path / "bundle")
    monkeypatch.chdir(tmp_path / "bundle")
    one = ["--candidate", "fp32", "--backend", "onnxruntime", *options.check]
    done = cli("check", given, *one, "--json")
    assert done.code == 0, done.err
    assert sorted(os.listdir(tmp_path)) == ["bundle", "bundle-report"]
    monkeypatch.chdir(tmp_path)
    assert cli("inspect", "bundle-report").code == 0


def test_an_empty_folder_takes_the_report_by_its_dot(
    cli: Any, story: SimpleNamespace, tmp_path: Any, options: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report").mkdir()
    monkeypatch.chdir(tmp_path / "report")
    one = ["--candidate", "fp32", "--backend", "onnxruntime", *options.check]
    done = cli("check", story.bundle, *one, "--out", ".", "--json")
    assert done.code == 0, done.err
    assert done.json["report"] == str(tmp_path / "report")
    assert (tmp_path / "report" / "report.md").is_file()


def test_the_root_is_no_bundle(cli: Any) -> None:
    done = cli("check", "/")
    assert (done.code, done.out) == (2, "")
