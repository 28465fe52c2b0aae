"""`edgemim check`: its exit code is the gates' and nothing else's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest


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
