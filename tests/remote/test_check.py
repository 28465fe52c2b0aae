"""A check on a board: a real OpenSSH server, a real bundle, a Python of its own that has never seen edgemim."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgemim.artifact import load_artifact
from edgemim.remote.check import check_on_boards
from edgemim.remote.session import RemoteError
from edgemim.runtime.report.read import read_report
from edgemim.runtime.settings import CheckSettings
from tests.remote.conftest import ODD, Server, Told, processes_with

pytestmark = pytest.mark.system("/usr/sbin/sshd", "openssh-server")

QUICK = CheckSettings(seconds=0.01, runs=10)


def test_the_report_comes_back_whole_and_the_second_time_nothing_is_copied(
    server: Server, client: SimpleNamespace, bundle: Callable[..., Path], board_python: Path, tmp_path: Path
) -> None:
    path, told = bundle(name=ODD, gates={"top1.max_drop": 0.5}), Told()
    address = server.address(f"{tmp_path}/the board's {ODD}", python=board_python)
    report = check_on_boards(path, tmp_path / ODD / "report", [address], QUICK, progress=told)
    assert report["passed"]
    assert report == read_report(tmp_path / ODD / "report")
    assert report["bundle"]["fingerprint"] == load_artifact(path).fingerprint
    assert report["bundle"]["path"] == ODD
    assert report["protocol"]["runs"] == 10
    assert {row["backend"] for row in report["candidates"]} == {"onnxruntime"}
    assert told.copied() > load_artifact(path).size
    assert told.steps[0][1] == "copy"
    _, what, done, total = told.steps[-1]
    assert what == "check"
    assert done == total > len(report["candidates"])

    # A check that ends with an error is a short one, and what it needs was copied before.
    again, short = Told(), CheckSettings(candidates=["none"])
    with pytest.raises(RemoteError, match="has no candidate 'none'"):
        check_on_boards(path, tmp_path / "again", [address], short, progress=again)
    assert again.copied() == 0

    # Of a bundle with another gate only the manifest is another one.
    other = bundle(name="other", gates={"top1.max_drop": 0.25})
    changed = Told()
    with pytest.raises(RemoteError, match="has no candidate 'none'"):
        check_on_boards(other, tmp_path / "changed", [address], short, progress=changed)
    assert changed.copied() == (other / "manifest.json").stat().st_size

    board = tmp_path / f"the board's {ODD}"
    assert sorted(p.name for p in board.iterdir()) == ["engines", "remote"]
    assert list((board / "remote" / "runs").iterdir()) == []
    assert not processes_with(ODD)


def test_a_missed_gate_is_a_report_and_an_error_there_is_one_here(
    server: Server, client: SimpleNamespace, bundle: Callable[..., Path], board_python: Path, tmp_path: Path
) -> None:
    path, address = bundle(), server.address(python=board_python)
    options = CheckSettings(seconds=0.01, runs=10, gates={"p50_ms": 1e-6}, candidates=["fp32"])
    report = check_on_boards(path, tmp_path / "report", [address], options)
    assert (report["passed"], report["gates"]["p50_ms"]["limit"]) == (False, 1e-6)
    assert server.root.joinpath("remote", "files").is_dir()

    with pytest.raises(RemoteError, match=r"^ssh://127.0.0.1:\d+: .* no candidate 'fp31'") as caught:
        check_on_boards(path, tmp_path / "none", [address], CheckSettings(candidates=["fp31"]))
    assert caught.value.exit_code == 2
    assert not (tmp_path / "none").exists()
