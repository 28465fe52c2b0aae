"""`edgemim sweep`: what a user can get wrong, and one sweep of a small backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

TINY = ["--target", "x86", "--backbone", "test_resnet", "--size", "32", "--precision", "fp32", "--threads", "1"]
BRIEF = ["--runs", "5", "--seconds", "0.01"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "x86"], ("nothing to sweep", "--backbone NAME")),
        (
            ["--target", "x86", "--backbone", "resnet19"],
            ("unknown backbone 'resnet19'", "did you mean 'resnet1"),
        ),
        ([*TINY, "--target", "x87"], ("unknown target 'x87'", "did you mean 'x86'?")),
        ([*TINY, "--precision", "int4"], ("target 'x86' has no precision 'int4'", "did you mean")),
        ([*TINY, "--mode", "quik"], ("unknown mode 'quik'", "did you mean 'quick'?")),
        ([*TINY, "--max-ms", "0"], ("--max-ms must be above 0",)),
        ([*TINY, "--resume", "--overwrite"], ("--resume goes on with a sweep", "give one of them")),
        (["--target", "x86", "gone"], ("gone does not exist",)),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    cli: Any, tmp_path: Path, arguments: list[str], words: tuple[str, ...]
) -> None:
    done = cli("sweep", *arguments, "--out", tmp_path / "out")
    assert (done.code, done.out) == (2, ""), done.err
    (line,) = done.err.splitlines()
    assert line.startswith("edgemim: ")
    assert [word for word in words if word not in line] == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["jetson-orin-nano", "arm64"])
def test_a_target_that_is_not_here_is_refused_in_one_line(cli: Any, tmp_path: Path, target: str) -> None:
    import platform

    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("these targets could be this machine")
    done = cli("sweep", *TINY, "--target", target, "--out", tmp_path / "out")
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert f"nothing of a sweep for target '{target}' can be measured on this machine" in line


def test_what_it_reads_is_never_what_it_replaces(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "runs" / "classifier").mkdir(parents=True)
    done = cli("sweep", tmp_path / "runs" / "classifier", "--target", "x86", "--out", tmp_path / "runs", "--overwrite")
    assert done.code == 2
    assert "would replace" in done.err


def test_a_sweep_ends_in_a_table_a_verdict_and_an_exit_code(cli: Any, tmp_path: Path) -> None:
    done = cli("sweep", *TINY, *BRIEF, "--max-ms", "0.000001", "--out", tmp_path / "sweep")
    assert done.code == 1, done.err
    assert "| test_resnet | random weights | 32 | fp32 |" in done.out
    assert "nothing fits in 1e-06 ms; the fastest is test_resnet fp32 on " in done.err
    again = cli("sweep", *TINY, *BRIEF, "--max-ms", "0.000001", "--out", tmp_path / "sweep", "--resume", "--json")
    assert again.code == 1
    assert again.json["kind"] == "sweep"
    assert again.json["report"] == str(tmp_path / "sweep")
    assert cli("inspect", tmp_path / "sweep").code == 0
    refused = cli("sweep", *TINY, *BRIEF, "--max-ms", "1", "--out", tmp_path / "sweep", "--resume")
    assert refused.code == 2
    assert "max_ms was 1e-06, is 1.0" in refused.err
    assert "replace it with --overwrite" in cli("sweep", *TINY, *BRIEF, "--out", tmp_path / "sweep").err
