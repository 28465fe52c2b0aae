"""Connections that drop and bytes that change on the way: real ones, through a real OpenSSH server."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgemim.artifact import load_artifact
from edgemim.errors import ArtifactError, DeviceError
from edgemim.remote.check import check_on_boards
from edgemim.remote.session import RemoteError
from edgemim.runtime.settings import CheckSettings
from tests.remote.conftest import Server, Told

pytestmark = pytest.mark.system("/usr/sbin/sshd", "openssh-server")

# A check that ends with an error, and soon, after everything was copied.
SHORT = CheckSettings(candidates=["none"])
ALTER = '''
"""Runs what the session asked for, and alters a word in what goes into it, so many times as the file beside says."""
import os, subprocess, sys
left = sys.argv[1]
child = subprocess.Popen(["sh", "-c", os.environ["SSH_ORIGINAL_COMMAND"]], stdin=subprocess.PIPE)
while data := os.read(0, 1 << 16):
    times = int(open(left).read())
    if b"Flatten" in data and times:
        data = data.replace(b"Flatten", b"Fletten", 1)
        open(left, "w").write(str(times - 1))
    child.stdin.write(data)
    child.stdin.flush()
child.stdin.close()
sys.exit(child.wait())
'''


class Cable:
    """A cable between ssh and a server that is cut after so many bytes towards the server, once per entry of `cuts`."""

    def __init__(self, port: int, cuts: list[int]) -> None:
        self._port, self._cuts = port, cuts
        self.sent: list[int] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.sent.append(0)
                cut = self._cuts.pop(0) if self._cuts else None
                with near, socket.create_connection(("127.0.0.1", self._port)) as far:
                    back = threading.Thread(target=self._pass, args=(far, near, None, None), daemon=True)
                    back.start()
                    self._pass(near, far, len(self.sent) - 1, cut)
                    back.join()

    def _pass(self, source: socket.socket, sink: socket.socket, index: int | None, cut: int | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 14):
                sink.sendall(data)
                if index is not None:
                    self.sent[index] += len(data)
                    if cut is not None and self.sent[index] > cut:
                        break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def cable(server: Server) -> Iterator[Callable[..., Cable]]:
    cables: list[Cable] = []

    def lay(*cuts: int) -> Cable:
        cables.append(Cable(server.port, [*cuts]))
        return cables[-1]

    yield lay
    for each in cables:
        each.close()


@pytest.fixture
def large(bundle: Callable[..., Path], world: SimpleNamespace) -> Path:
    """A bundle of 4 MB, most of it in one file."""
    noise = np.random.default_rng(5).integers(0, 256, (4, 600, 600, 3), dtype=np.uint8)
    return bundle(evaluation=[(world.as_png(image), None) for image in noise])


def test_a_dropped_connection_goes_on_where_it_ended(
    server: Server,
    client: SimpleNamespace,
    cable: Callable[..., Cable],
    large: Path,
    board_python: Path,
    tmp_path: Path,
) -> None:
    size, told = load_artifact(large).size, Told()
    assert size > 4_000_000
    wire = cable(2_500_000, 1_000_000)
    address = server.address(f"{tmp_path}/board", python=board_python, port=wire.port)
    with pytest.raises(RemoteError, match="has no candidate 'none'"):
        check_on_boards(large, tmp_path / "report", [address], SHORT, progress=told, retry_s=(0.1, 0.1))
    assert len(wire.sent) == 3
    # What was on its way when the cable was cut is copied again: at most what ssh and sshd hold, 2 MB a window.
    announced = [total for _, what, done, total in told.steps if (what, done) == ("copy", 0)]
    assert announced[0] > announced[1] > announced[2]
    assert sum(wire.sent) < 2 * size
    assert [what for _, what, *_ in told.steps].count("reconnect") == 2


def test_a_connection_that_never_holds_is_given_up(
    server: Server,
    client: SimpleNamespace,
    cable: Callable[..., Cable],
    bundle: Callable[..., Path],
    board_python: Path,
    tmp_path: Path,
) -> None:
    wire = cable(*[20_000] * 5)  # after the agent, before the first file
    address = server.address(f"{tmp_path}/board", python=board_python, port=wire.port)
    with pytest.raises(DeviceError, match=r"ssh://127.0.0.1:\d+: the connection dropped again and again: ") as caught:
        check_on_boards(bundle(), tmp_path / "report", [address], SHORT, retry_s=(0.1,))
    assert caught.value.exit_code == 3
    assert len(wire.sent) >= 2


@pytest.fixture
def altering(start_server: Callable[..., Server], tmp_path: Path) -> Callable[[int], Server]:
    """A server whose sessions get so many files altered on their way in."""

    def start(times: int) -> Server:
        script, left = tmp_path / "alter.py", tmp_path / "left"
        script.write_text(ALTER)
        left.write_text(str(times))
        return start_server(shlex.join([sys.executable, str(script), str(left)]))

    return start


def test_a_file_that_arrives_altered_is_sent_again(
    altering: Callable[[int], Server],
    client: SimpleNamespace,
    bundle: Callable[..., Path],
    board_python: Path,
    tmp_path: Path,
) -> None:
    told, server = Told(), altering(1)
    path = bundle()
    with pytest.raises(RemoteError, match="has no candidate 'none'"):
        check_on_boards(path, tmp_path / "report", [server.address(python=board_python)], SHORT, progress=told)
    first, second = (total for _, what, done, total in told.steps if (what, done) == ("copy", 0))
    model = (path / "fp32.onnx").stat().st_size
    assert second == model < first
    assert (tmp_path / "left").read_text() == "0"


def test_a_transfer_that_alters_again_and_again_is_refused(
    altering: Callable[[int], Server],
    client: SimpleNamespace,
    bundle: Callable[..., Path],
    board_python: Path,
    tmp_path: Path,
) -> None:
    server = altering(100)
    with pytest.raises(ArtifactError, match=r"\.onnx arrived altered 3 times \(another sha256 there than here\)"):
        check_on_boards(bundle(), tmp_path / "report", [server.address(python=board_python)], SHORT)


def test_a_file_that_changes_here_while_it_is_copied_is_told(
    server: Server, client: SimpleNamespace, bundle: Callable[..., Path], board_python: Path, tmp_path: Path
) -> None:
    path = bundle()
    model = path / "fp32.onnx"
    other = model.read_bytes()[::-1]

    def change(_board: str, what: str, done: int, _total: int) -> None:
        if (what, done) == ("copy", 0):
            model.write_bytes(other)

    address = server.address(f"{tmp_path}/board", python=board_python)
    with pytest.raises(ArtifactError, match=r"fp32\.onnx changed while it was copied; write the bundle again"):
        check_on_boards(path, tmp_path / "report", [address], SHORT, progress=change)


def test_a_file_that_was_damaged_on_the_board_is_copied_again(
    server: Server, client: SimpleNamespace, bundle: Callable[..., Path], board_python: Path, tmp_path: Path
) -> None:
    address, told = server.address(f"{tmp_path}/board", python=board_python), Told()
    path = bundle()
    for progress in (Told(), told):
        with pytest.raises(RemoteError, match="has no candidate 'none'"):
            check_on_boards(path, tmp_path / "report", [address], SHORT, progress=progress)
        stored = tmp_path / "board" / "remote" / "files" / load_artifact(path).files["fp32.onnx"].sha256
        data = bytearray(stored.read_bytes())
        data[7] ^= 1
        os.chmod(stored, 0o644)
        stored.write_bytes(data)
    assert told.copied() == len(data)
