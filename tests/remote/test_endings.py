"""Whatever ends a check here ends it on the board: nothing goes on running there, and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgemim.remote.board.link import Gone, Link
from edgemim.remote.board.run import check
from edgemim.remote.check import check_on_boards
from edgemim.remote.session import RemoteError
from edgemim.runtime.settings import CheckSettings
from tests.remote.conftest import Server, alive, eventually, parent_of, processes_with

LONG = CheckSettings(seconds=60, runs=10)


@pytest.fixture
def command(
    server: Server, client: SimpleNamespace, bundle: Callable[..., Path], board_python: Path, tmp_path: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """`edgemim check --device` of a bundle called `unmistakable`, which measures for minutes."""
    address = f"ssh://127.0.0.1:{server.port}{tmp_path}/board?python={board_python.parent.as_uri()[7:]}/python3"
    arguments = [str(bundle(name="unmistakable")), "--device", address, "--out", str(tmp_path / "report")]
    command = [sys.executable, "-m", "edgemim", "check", *arguments, "--seconds", "300"]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()
    assert eventually(lambda: not running())


def running() -> set[int]:
    """The check on the board: it was called with the bundle's name and without its path."""
    return processes_with("./unmistakable")


@pytest.mark.system("/usr/sbin/sshd", "openssh-server")
@pytest.mark.parametrize(
    "number", [signal.SIGKILL, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGTERM, signal.SIGINT))]
)
def test_a_killed_command_leaves_nothing_running(
    command: subprocess.Popen[bytes], number: signal.Signals, tmp_path: Path
) -> None:
    (check,) = eventually(running)
    agent = parent_of(check)
    runs = tmp_path / "board" / "remote" / "runs"
    assert any(runs.iterdir())
    command.send_signal(number)
    assert eventually(lambda: not alive(check) and not alive(agent))
    assert not running()
    assert eventually(lambda: not any(runs.iterdir()))
    _, told = command.communicate()
    assert command.returncode == (130 if number == signal.SIGINT else -number)
    if number == signal.SIGINT:
        assert told.decode().splitlines()[-1] == "edgemim: interrupted"


@pytest.mark.system("/usr/sbin/sshd", "openssh-server")
def test_a_check_whose_agent_is_killed_ends_too(command: subprocess.Popen[bytes]) -> None:
    (check,) = eventually(running)
    os.kill(parent_of(check), signal.SIGKILL)
    assert eventually(lambda: not alive(check))
    # To the command it is a connection that dropped: it begins again.
    assert eventually(lambda: running() - {check})


@pytest.mark.slow
@pytest.mark.system("/usr/sbin/sshd", "openssh-server")
def test_a_second_check_on_the_same_board_is_refused(
    command: subprocess.Popen[bytes],
    server: Server,
    bundle: Callable[..., Path],
    board_python: Path,
    tmp_path: Path,
) -> None:
    assert eventually(lambda: (tmp_path / "board" / "engines" / "check.lock").exists())
    address = server.address(f"{tmp_path}/board", python=board_python)
    with pytest.raises(RemoteError, match=r"^ssh://127.0.0.1:\d+: another check is running on this device") as caught:
        check_on_boards(bundle(name="second"), tmp_path / "second-report", [address], LONG)
    assert caught.value.exit_code == 2
    assert command.poll() is None


@pytest.mark.system("/usr/sbin/sshd", "openssh-server")
def test_a_check_that_is_killed_there_is_told(
    server: Server, client: SimpleNamespace, bundle: Callable[..., Path], board_python: Path, tmp_path: Path
) -> None:
    def kill() -> None:
        for number in eventually(running):
            os.kill(number, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    address = server.address(f"{tmp_path}/board", python=board_python)
    with pytest.raises(RemoteError, match=r"killed there, most likely for want of memory; close other") as caught:
        check_on_boards(bundle(name="unmistakable"), tmp_path / "report", [address], LONG)
    killer.join()
    assert caught.value.exit_code == 3


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Link, int]]:
    """A link that loses its patience after a second, and the other end of its input."""
    monkeypatch.setattr("edgemim.remote.board.link.SILENCE_S", 1)
    monkeypatch.setattr("edgemim.remote.board.run.SILENCE_S", 1)
    before = signal.getsignal(signal.SIGALRM)
    source, near = os.pipe()
    far, sink = os.pipe()
    yield Link(source, sink), near
    signal.signal(signal.SIGALRM, before)
    for descriptor in (source, near, far, sink):
        os.close(descriptor)


def test_a_network_that_falls_silent_is_as_good_as_cut(link: tuple[Link, int]) -> None:
    started = time.monotonic()
    with pytest.raises(Gone):
        link[0].line()
    with pytest.raises(Gone):
        link[0].send({}, data=bytes(1 << 20))  # more than a pipe holds, and nobody reads
    assert 1.5 < time.monotonic() - started < 10


def test_a_check_ends_when_nothing_is_heard_for_long_and_not_before(
    link: tuple[Link, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    fake = tmp_path / "fake_python"
    fake.write_text("#!/bin/sh\necho $$ > ../number\nexec sleep 300\n")
    fake.chmod(0o755)
    monkeypatch.setattr("edgemim.remote.board.run.sys.executable", str(fake))
    monkeypatch.setattr("edgemim.remote.board.run._END_S", 0.2)

    def say_still_here() -> None:
        for _ in range(8):
            os.write(link[1], b"\n")
            time.sleep(0.25)

    voice = threading.Thread(target=say_still_here)
    voice.start()
    started = time.monotonic()
    with pytest.raises(Gone):
        check(link[0], tmp_path, "", [], tmp_path / "engines")
    voice.join()
    assert time.monotonic() - started > 2.5
    assert not alive(int((tmp_path / "number").read_text()))
