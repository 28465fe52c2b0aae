"""Several boards at once: one report, and a board that fails does not keep the others from theirs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgemim.artifact import load_artifact
from edgemim.errors import OutputError
from edgemim.remote.address import Address
from edgemim.remote.check import check_on_boards, folder_names
from edgemim.remote.session import RemoteError
from edgemim.runtime.outcome import exit_code
from edgemim.runtime.report.read import read_report
from edgemim.runtime.settings import CheckSettings
from tests.remote.conftest import Server, Told

QUICK = CheckSettings(seconds=0.01, runs=10, candidates=["fp32"])


@pytest.mark.system("/usr/sbin/sshd", "openssh-server")
def test_boards_run_side_by_side_and_one_that_fails_is_a_row(
    server: Server,
    start_server: Callable[..., Server],
    client: SimpleNamespace,
    bundle: Callable[..., Path],
    board_python: Path,
    bare_python: Path,
    tmp_path: Path,
) -> None:
    second, third = start_server(), start_server()
    addresses = [
        server.address(python=board_python),
        second.address(python=bare_python),
        third.address(python=board_python),
    ]
    told, out = Told(), tmp_path / "report"
    path = bundle()
    report = check_on_boards(path, out, addresses, QUICK, progress=told)
    assert report == read_report(out) == json.loads((out / "report.json").read_text())
    assert (report["passed"], report["exit_code"]) == (False, 2)
    assert report["verdict"].startswith("2 of 3 boards pass; ssh://127.0.0.1:")
    first, failed, last = report["devices"]
    assert [row["device"] for row in report["devices"]] == [address.text for address in addresses]
    assert (first["passed"], first["exit_code"], first["error"]) == (True, 0, None)
    assert (failed["passed"], failed["exit_code"], failed["folder"]) == (False, 2, None)
    assert "numpy is not installed for" in failed["error"]
    for row, address in ((first, addresses[0]), (last, addresses[2])):
        own = read_report(out / row["folder"])
        assert (row["chosen"], row["verdict"]) == (own["chosen"], own["verdict"])
        assert address.port is not None
        assert row["folder"] == f"127.0.0.1-{address.port}"
        assert f"[{row['folder']}/report.md]" in (out / "report.md").read_text("utf-8")
    assert "numpy is not installed" in (out / "report.md").read_text("utf-8")
    assert load_artifact(out, "report").provenance[-1]["devices"] == [address.text for address in addresses]

    begun = {board: [what for name, what, *_ in told.steps if name == board] for board, *_ in told.steps}
    assert begun[addresses[0].text][0] == "copy"

    with pytest.raises(OutputError, match="exists"):
        check_on_boards(path, out, addresses, QUICK)
    both = [second.address(python=bare_python), third.address(python=bare_python)]
    with pytest.raises(RemoteError, match=r"numpy is not installed.*; ssh.*numpy is not installed") as caught:
        check_on_boards(path, tmp_path / "none", both, QUICK)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "none").exists()


@pytest.mark.system("/usr/sbin/sshd", "openssh-server")
def test_a_bench_on_boards_says_what_is_fastest_on_each(
    server: Server,
    start_server: Callable[..., Server],
    client: SimpleNamespace,
    bundle: Callable[..., Path],
    board_python: Path,
    tmp_path: Path,
) -> None:
    addresses = [one.address(python=board_python) for one in (server, start_server())]
    settings = replace(QUICK, judge=False, gates={"p50_ms": 1e-6}, candidates=None, probe=False)
    report = check_on_boards(bundle(), tmp_path / "report", addresses, settings)
    assert (report["passed"], report["exit_code"]) == (True, 0)
    assert report["verdict"].startswith("2 of 2 boards were measured; ssh://127.0.0.1:")
    for row in report["devices"]:
        own = read_report(tmp_path / "report" / row["folder"])
        assert (own["kind"], own["chosen"], own["gates"]) == ("bench", None, {})
        assert row["p50_ms"] == min(one["latency"]["p50_ms"] for one in own["candidates"] if one["latency"])
        assert f"is fastest with {row['chosen']} on {row['chosen_backend']}" in report["verdict"]


@pytest.mark.slow
def test_boards_on_which_nothing_runs_right_bring_their_reports_and_exit_code_3(
    server: Server,
    start_server: Callable[..., Server],
    client: SimpleNamespace,
    world: SimpleNamespace,
    as_onnx: Callable[..., bytes],
    board_python: Path,
    tmp_path: Path,
) -> None:
    # Every graph computes the opposite of the golden outputs.
    path = world.bundle(encode=lambda weights: as_onnx(-weights), evaluation=None)
    addresses = [one.address(python=board_python) for one in (server, start_server())]
    alone = check_on_boards(path, tmp_path / "alone", addresses[:1], replace(QUICK, probe=False))
    assert alone == read_report(tmp_path / "alone")
    assert (alone["passed"], exit_code(alone)) == (False, 3)
    assert alone["verdict"].startswith("no candidate runs right here: fp32 on onnxruntime: ")
    both = check_on_boards(path, tmp_path / "both", addresses, replace(QUICK, probe=False))
    assert (both["passed"], exit_code(both)) == (False, 3)
    assert [(row["exit_code"], row["error"]) for row in both["devices"]] == [(3, None), (3, None)]
    assert both["verdict"].startswith("0 of 2 boards pass; ")
    assert both["verdict"].count(" failed") == 2


def test_folders_of_boards_have_names_of_their_own() -> None:
    addresses = [
        Address(text="", host="nano"),
        Address(text="", host="nano", user="me", port=22),
        Address(text="", host="../x y"),
        Address(text="", host="..-x-y"),
    ]
    assert folder_names(addresses) == ["nano", "me@nano-22", "-x-y", "-x-y-4"]
