"""Boards that are this machine: real OpenSSH servers on loopback, with their own keys, and a Python of their own.

Nothing of the user's is read or changed: `ssh` is a script that calls the real one with a configuration of the test.
"""

from __future__ import annotations

import getpass
import importlib.metadata
import os
import pwd
import shutil
import socket
import subprocess
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest

from edgemim.remote.address import Address, parse_address
from tests.runtime.backends.conftest import as_onnx  # noqa: F401  (a fixture)
from tests.runtime.conftest import world  # noqa: F401  (a fixture)

SSHD = "/usr/sbin/sshd"
ODD = "py thon's $(HOME) & co; `x` ü"


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running sshd: its port, and the folder that its sessions have for a cache."""

    port: int
    cache: Path

    def address(self, path: str = "", *, python: Path | str | None = None, port: int | None = None) -> Address:
        query = "" if python is None else f"?python={quote(str(python), safe='')}"
        return parse_address(f"ssh://127.0.0.1:{port or self.port}{quote(path)}{query}")

    @property
    def root(self) -> Path:
        """Where everything goes that the address names no folder for."""
        return self.cache / "edgemim"


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Files of the test's own: what sshd and ssh read instead of the user's."""

    folder: Path

    def make(self, name: str) -> Path:
        """A key pair; the public half is NAME.pub."""
        file = self.folder / name
        if not file.exists():
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(file)]
            subprocess.run(command, check=True)
        return file

    def public(self, name: str) -> str:
        return self.make(name).with_suffix(".pub").read_text().strip()


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(folder=tmp_path_factory.mktemp("keys"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_sshd(folder: Path, keys: Keys, *, command: str | None = None) -> tuple[subprocess.Popen[bytes], Server]:
    """Start a server that takes the key `user`; with `command` every session runs that instead of what it asks for."""
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # a service would have made it
    port, cache = free_port(), folder / "cache"
    authorized = folder / "authorized_keys"
    authorized.write_text(keys.public("user") + "\n")
    authorized.chmod(0o600)
    config = folder / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {keys.make('host')}\nAuthorizedKeysFile {authorized}\n"
        "StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"PermitRootLogin prohibit-password\nSetEnv XDG_CACHE_HOME={cache} OMP_NUM_THREADS=1\n"
        + (f"ForceCommand {command}\n" if command else "")
    )
    with open(folder / "sshd.log", "wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=log)
    until = time.monotonic() + 10
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process, Server(port=port, cache=cache)
        assert process.poll() is None, (folder / "sshd.log").read_text()
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Iterator[Callable[..., Server]]:
    """`start_server(command=)`: another server, ended with the session."""
    if "nologin" in pwd.getpwuid(os.getuid()).pw_shell or "false" in pwd.getpwuid(os.getuid()).pw_shell:
        pytest.skip(f"the user {getpass.getuser()} has no login shell")
    processes = []

    def start(command: str | None = None) -> Server:
        process, server = start_sshd(tmp_path_factory.mktemp("board"), keys, command=command)
        processes.append(process)
        return server

    yield start
    for process in processes:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def server(start_server: Callable[..., Server]) -> Server:
    """The server that most tests share."""
    return start_server()


@pytest.fixture
def client(tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The user's ssh, as far as it goes: `config` and `known_hosts` may be changed by a test."""
    folder = tmp_path / "client"
    (folder / "bin").mkdir(parents=True)
    known = folder / "known_hosts"
    known.write_text(f"board {' '.join(keys.public('host').split()[:2])}\n")
    config = folder / "config"
    config.write_text(
        f"Host *\n  IdentityFile {keys.make('user')}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
        f"  UserKnownHostsFile {known}\n  GlobalKnownHostsFile /dev/null\n  HostKeyAlias board\n"
    )
    real = shutil.which("ssh")
    script = folder / "bin" / "ssh"
    script.write_text(f'#!/bin/sh\nexec {real} -F "{config}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    return SimpleNamespace(config=config, known_hosts=known, folder=folder)


def make_python(folder: Path, packages: list[str]) -> Path:
    """An interpreter that has these packages and what they need, and no edgemim."""
    venv.create(folder, symlinks=True)
    (site,) = (folder / "lib").glob("python3*/site-packages")
    done: set[str] = set()
    wanted = [*packages]
    while wanted:
        name = wanted.pop()
        if name in done:
            continue
        done.add(name)
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            link = site / top
            if not link.is_symlink():
                link.symlink_to(Path(str(distribution.locate_file(top))))
    return folder / "bin" / "python3"


@pytest.fixture(scope="session")
def board_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a board has: numpy, Pillow and one backend, no filelock, no platformdirs; its path has odd characters."""
    pytest.importorskip("onnxruntime", reason="the boards of these tests run ONNX Runtime")
    return make_python(tmp_path_factory.mktemp("python") / ODD, ["numpy", "pillow", "onnxruntime"])


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board's Python before anything was installed."""
    return make_python(tmp_path_factory.mktemp("python") / "bare", [])


@pytest.fixture
def bundle(world: SimpleNamespace, as_onnx: Any) -> Callable[..., Path]:  # noqa: F811
    """`bundle(name=, ...)`: one with real ONNX models."""

    def make(**options: Any) -> Path:
        return Path(world.bundle(encode=as_onnx, **options))

    return make


def processes_with(text: str) -> set[int]:
    """Process numbers whose command line holds `text`."""
    found = set()
    for folder in Path("/proc").iterdir():
        try:
            command = (folder / "cmdline").read_bytes() if folder.name.isdigit() else b""
        except OSError:
            continue
        if text.encode() in command and int(folder.name) != os.getpid():
            found.add(int(folder.name))
    return found


def alive(number: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def parent_of(number: int) -> int:
    return int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])


def eventually(condition: Callable[[], Any], seconds: float = 90.0) -> Any:
    """The condition's value once it is true; the last one when time is up."""
    until = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < until:
        time.sleep(0.05)
    return value


class Told:
    """Collects what a check tells of its progress."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, str, int, int]] = []

    def __call__(self, *step: Any) -> None:
        self.steps.append(step)

    def copied(self, board: str | None = None) -> int:
        """Bytes that were announced for copying."""
        return sum(
            total for name, what, done, total in self.steps if (what, done) == ("copy", 0) and board in (None, name)
        )
