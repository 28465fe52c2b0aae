"""`edgemim check --device` from the command line: what it prints, and its exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest

from edgemim.runtime.report.read import read_report
from tests.commands.conftest import run
from tests.remote.conftest import Server

QUICK = ("--runs", "10", "--seconds", "0.01", "--candidates", "fp32,int8-nncf")


@pytest.mark.system("/usr/sbin/sshd", "openssh-server")
def test_the_report_is_printed_and_the_exit_code_is_that_of_the_board(
    server: Server, client: SimpleNamespace, bundle: Callable[..., Path], board_python: Path, tmp_path: Path
) -> None:
    with open(client.config, "a") as stream:
        stream.write(f"Host my-board\n  HostName 127.0.0.1\n  Port {server.port}\n")
    board, path = f"ssh://my-board?python={quote(str(board_python))}", bundle(name="a bundle")
    done = run("check", path, "--device", board, *QUICK, "--gate", "p50_ms=0.000001", "--json", "--no-page")
    assert done.code == 1, done.err
    assert done.json["report"] == str(tmp_path / "a bundle-report")
    assert {row["name"] for row in done.json["candidates"]} == {"fp32", "int8-nncf"}
    assert done.err.splitlines() == ["ssh://my-board copies", "ssh://my-board checks", done.json["verdict"]]

    again = run("check", path, "--device", board, *QUICK)
    assert (again.code, again.out) == (2, "")
    assert again.err.startswith(f"edgemim: {tmp_path}/a bundle-report exists; choose another --out")

    wrong = run("check", path, "--device", board, "--overwrite", "--backend", "tensorrt")
    assert (wrong.code, wrong.out) == (2, "")
    assert wrong.err.splitlines()[-1].startswith("edgemim: ssh://my-board: ")
    assert read_report(tmp_path / "a bundle-report")["verdict"] == done.json["verdict"]
