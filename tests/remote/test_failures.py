"""What can be wrong with a board, each told in one line that says what to do; by the real ssh and sshd."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgemim.errors import ConfigError, EdgemimError
from edgemim.remote.address import Address, parse_address
from edgemim.remote.bootstrap import agent_source
from edgemim.remote.check import check_on_boards
from edgemim.remote.connection import AgentError
from edgemim.remote.failures import UnreachableError
from edgemim.remote.session import RemoteError
from edgemim.runtime.settings import CheckSettings
from tests.remote.conftest import Keys, Server, free_port

pytestmark = pytest.mark.system("/usr/sbin/sshd", "openssh-server")


@pytest.fixture
def refused(bundle: Callable[..., Path], client: SimpleNamespace, tmp_path: Path) -> Callable[..., str]:
    """The one line that a check on this board ends with; nothing is tried twice."""
    path = bundle()

    def run(address: Address, kind: type[EdgemimError] = UnreachableError) -> str:
        with pytest.raises(kind) as caught:
            check_on_boards(path, tmp_path / "report", [address], CheckSettings(), retry_s=())
        assert caught.value.exit_code == 2
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "report").exists()
        return str(caught.value)

    return run


def test_a_refused_key(server: Server, client: SimpleNamespace, keys: Keys, refused: Callable[..., str]) -> None:
    client.config.write_text(client.config.read_text().replace(str(keys.make("user")), str(keys.make("stranger"))))
    line = refused(server.address())
    assert line.startswith(f"ssh://127.0.0.1:{server.port} refuses the keys of this machine (")
    assert line.endswith(f"; run: ssh-copy-id -p {server.port} 127.0.0.1")


def test_an_unknown_host(server: Server, client: SimpleNamespace, refused: Callable[..., str]) -> None:
    client.known_hosts.write_text("")
    line = refused(server.address())
    assert "is not known to this machine; log in once and compare its fingerprint" in line
    assert line.endswith(f": ssh -p {server.port} 127.0.0.1")


def test_another_host_key(server: Server, client: SimpleNamespace, keys: Keys, refused: Callable[..., str]) -> None:
    client.known_hosts.write_text(f"board {' '.join(keys.public('other-host').split()[:2])}\n")
    line = refused(server.address())
    assert "shows another host key than the one this machine knows" in line
    assert line.endswith(f"run: ssh-keygen -R '[127.0.0.1]:{server.port}'")


def test_nothing_listens(refused: Callable[..., str]) -> None:
    assert "takes no connection" in refused(parse_address(f"ssh://127.0.0.1:{free_port()}"))


def test_no_such_host(refused: Callable[..., str]) -> None:
    assert refused(parse_address("ssh://no-such-board.invalid")).startswith(
        "there is no host 'no-such-board.invalid' ("
    )


def test_settings_that_ssh_refuses(server: Server, client: SimpleNamespace, refused: Callable[..., str]) -> None:
    client.config.write_text("Nonsense yes\n")
    assert "ssh refuses its settings: " in refused(server.address())


def test_no_python(server: Server, refused: Callable[..., str]) -> None:
    line = refused(server.address(python="python'3 $(reboot)"))
    assert """cannot run "python'3 $(reboot)" (""" in line
    assert "sudo apt install python3 python3-numpy python3-pil" in line


def test_a_login_that_runs_no_command(start_server: Callable[..., Server], refused: Callable[..., str]) -> None:
    line = refused(start_server("echo This account is not available").address())
    assert line.endswith("did not start Python but said: This account is not available")


def test_a_python_that_is_too_old(server: Server, refused: Callable[..., str], tmp_path: Path) -> None:
    fake = tmp_path / "fake_python_3_8"
    fake.write_text("#!/bin/sh\necho edgemim-agent 3 8\nexec cat\n")
    fake.chmod(0o755)
    line = refused(server.address(python=fake), ConfigError)
    assert f"has Python 3.8 as {str(fake)!r}, 3.10 or newer is needed" in line


def test_no_numpy(server: Server, refused: Callable[..., str], bare_python: Path) -> None:
    line = refused(server.address(python=bare_python), RemoteError)
    assert f"numpy is not installed for {bare_python}" in line
    assert "run there: sudo apt install python3-numpy" in line


def test_a_numpy_that_is_too_old(
    server: Server, refused: Callable[..., str], bare_python: Path, tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    (fakes / "numpy.py").write_text("__version__ = '1.17.4'  # a fake: an old numpy does not run on this Python\n")
    (fakes / "PIL.py").write_text("__version__ = '9.0.1'\n")
    python = tmp_path / "with-fakes"
    python.write_text(f"#!/bin/sh\nPYTHONPATH={fakes} exec '{bare_python}' \"$@\"\n")
    python.chmod(0o755)
    line = refused(server.address(python=python), RemoteError)
    assert "numpy 1.17.4 of" in line
    assert "is too old there, 1.21 is needed; run there: python3 -m pip install --user 'numpy>=1.21'" in line


def test_a_folder_that_cannot_be_made(
    server: Server, refused: Callable[..., str], board_python: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    line = refused(server.address(f"{tmp_path}/file/x", python=board_python), RemoteError)
    assert "a part of the path is a file; free some space there, or name another folder in the address" in line


def test_a_name_that_is_too_long(server: Server, refused: Callable[..., str], board_python: Path) -> None:
    assert ": a name is too long; " in refused(server.address(f"/x{'x' * 300}", python=board_python), RemoteError)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(
    server: Server, refused: Callable[..., str], board_python: Path, small_disk: Path, tmp_path: Path
) -> None:
    address = server.address(f"{small_disk}/x", python=board_python)
    line = refused(address, RemoteError)
    assert f"the disk of {small_disk}/x is full there: " in line
    assert "are free; free some space there, or name another folder in the address: ssh://host/FOLDER" in line
    assert not list((small_disk / "x" / "remote" / "files").iterdir())


def test_a_disk_that_fills_up_meanwhile(
    server: Server,
    refused: Callable[..., str],
    board_python: Path,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def sees_room() -> bytes:
        """The agent, but it believes that there is room: somebody else takes it after it has looked."""
        source = agent_source().partition(b"\n")[2].replace(b"shutil.disk_usage(root).free", b"10**12")
        return b"%d\n" % len(source) + source

    assert sees_room() != agent_source()
    monkeypatch.setattr("edgemim.remote.connection.agent_source", sees_room)
    line = refused(server.address(f"{small_disk}/x", python=board_python), RemoteError)
    assert f"cannot write {small_disk}/x there: the disk is full; free some space there, or name another" in line


def test_an_agent_that_breaks_is_a_bug_with_its_traceback(
    bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "fake" / "ssh"
    fake.parent.mkdir()
    lines = ("edgemim-agent 3 10", '{"ready": true}')
    fake.write_text(
        f"#!/bin/sh\nprintf '%s\\n' '{lines[0]}' '{lines[1]}'\n"
        "echo 'Traceback (most recent call last):' >&2\necho 'KeyError: 7' >&2\nexit 1\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(AgentError, match=r"the agent on the board failed:\nTraceback .*\nKeyError: 7"):
        check_on_boards(bundle(), tmp_path / "report", [parse_address("ssh://nano")], CheckSettings())


def test_no_ssh_here(bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnreachableError, match=r"needs the command 'ssh'.*apt install openssh-client"):
        check_on_boards(bundle(), tmp_path / "report", [parse_address("ssh://nano")], CheckSettings())
