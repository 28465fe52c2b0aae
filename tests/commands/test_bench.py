"""`edgemim bench`: numbers without gates, of one bundle or several."""

from __future__ import annotations

import os
import shutil
from types import SimpleNamespace
from typing import Any

import pytest


def test_bundles_are_measured_in_turns_and_no_gate_counts(
    cli: Any, story: SimpleNamespace, tmp_path: Any, options: SimpleNamespace
) -> None:
    (tmp_path / "twin").symlink_to(story.bundle)
    one = ["--candidates", "fp32,int8-linear", "--backend", "onnxruntime", *options.check]
    done = cli("bench", story.bundle, *one, "--out", tmp_path / "one", "--json")
    assert done.code == 0, done.err
    assert (done.json["kind"], done.json["gates"], done.json["chosen"]) == ("bench", {}, None)
    assert [row["name"] for row in done.json["candidates"]] == ["fp32", "int8-linear"]
    assert all(row["memory"]["peak_mb"] > row["memory"]["base_mb"] > 0 for row in done.json["candidates"])
    assert done.err.splitlines() == [done.json["verdict"]]

    twice = cli("bench", story.bundle, tmp_path / "twin", *one, "--out", tmp_path / "two")
    assert twice.code == 2
    assert "was given twice" in twice.err


@pytest.mark.parametrize("option", ["--gate", "--gates"])
def test_a_bench_takes_no_gates(cli: Any, story: SimpleNamespace, option: str) -> None:
    assert cli("bench", story.bundle, option, "p99_ms=8").code == 2


def test_boards_are_given_one_bundle_at_a_time(cli: Any, tmp_path: Any) -> None:
    done = cli("bench", tmp_path / "a", tmp_path / "b", "--device", "ssh://nano")
    assert (done.code, done.out) == (2, "")
    assert "with --device one bundle is measured at a time; got 2" in done.err


def test_a_bench_of_the_folder_that_one_is_in_lies_beside_it(
    cli: Any, story: SimpleNamespace, tmp_path: Any, options: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(story.bundle, tmp_path / "bundle")
    monkeypatch.chdir(tmp_path / "bundle")
    one = ["--candidate", "fp32", "--backend", "onnxruntime", *options.check]
    done = cli("bench", ".", *one, "--json")
    assert done.code == 0, done.err
    assert sorted(os.listdir(tmp_path)) == ["bundle", "bundle-bench"]
    assert done.json["bundle"]["path"] == str(tmp_path / "bundle")
