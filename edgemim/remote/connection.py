"""One connection to the agent on a board, through the user's own ssh: messages both ways, and signs of life.

    with Connection(address) as connection:
        connection.open()
        connection.send({...})
        message = connection.receive()

ssh never asks anything: it runs beside others, and it may have to be started again when the network is back. It reads
~/.ssh/config, so hosts, users, keys, jump hosts and ports may all come from there.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import IO, Any

from edgemim.errors import ConfigError
from edgemim.remote.address import Address
from edgemim.remote.bootstrap import COMMAND, MARKER, agent_source, first_lines
from edgemim.remote.failures import SSH_FAILED, UnreachableError, explain

LEAST_PYTHON = (3, 10)
_STILL_HERE_S = 10.0
_END_S = 15.0
_LINES_KEPT = 60
_OPTIONS = (
    *("-T", "-x", "-a"),
    *("-o", "BatchMode=yes"),
    *("-o", "ClearAllForwardings=yes"),  # those of the user's own session would collide with it
    *("-o", "RemoteCommand=none"),
    *("-o", "ConnectTimeout=20"),
    *("-o", "ServerAliveInterval=10"),
    *("-o", "ServerAliveCountMax=3"),
)


class DroppedError(Exception):
    """The connection ended in the middle; it is worth another try."""


class AgentError(Exception):
    """The agent on the board ended with a traceback: a bug in edgemim."""


class Connection:
    """A running ssh; see the module's text. Use it in one thread; `kill` may be called from another."""

    def __init__(self, address: Address) -> None:
        ssh = shutil.which("ssh")
        if ssh is None:
            raise UnreachableError(
                "--device needs the command 'ssh', which is not installed; run: sudo apt install openssh-client"
            )
        self._address = address
        self._messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._errors: deque[str] = deque(maxlen=_LINES_KEPT)
        self._noise = ""
        self._writing = threading.Lock()
        self._closed = threading.Event()
        self._process = subprocess.Popen(
            [ssh, *_OPTIONS, *address.ssh_options, COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._threads: list[threading.Thread] = []
        for work in (self._read, self._read_errors):
            self._start(work)

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Start the agent.

        Raises:
            UnreachableError: The board cannot be reached, or runs no Python.
            ConfigError: Its Python is too old.
        """
        with contextlib.suppress(OSError):  # the end of the output tells why
            self._write([first_lines(self._address.python)])
        message = self._messages.get()
        if message is None:
            raise explain(self._address, self._wait(), self.errors, self._noise)
        version = tuple(message["python"])
        if version < LEAST_PYTHON:
            found, least = (".".join(map(str, v)) for v in (version, LEAST_PYTHON))
            raise ConfigError(
                f"{self._address.text} has Python {found} as {self._address.python!r}, {least} or newer is needed; "
                "install one there and name it with ?python="
            )
        with contextlib.suppress(OSError):
            self._write([agent_source()])
        self.receive()
        self._start(self._live)

    def send(self, message: dict[str, Any], data: Iterable[bytes] = ()) -> None:
        """One message and the raw bytes that it announces.

        Raises:
            DroppedError: The connection is gone.
        """
        try:
            self._write([json.dumps(message).encode() + b"\n"], data)
        except OSError as error:
            raise self._lost() from error

    def receive(self) -> dict[str, Any]:
        """The next message; one with a report has its files in `data`, by name.

        Raises:
            DroppedError: The connection is gone.
            AgentError: The agent failed.
        """
        message = self._messages.get()
        if message is None:
            raise self._lost()
        return message

    def waiting(self) -> list[dict[str, Any]]:
        """The messages that are here already, without waiting for one."""
        messages = []
        with contextlib.suppress(queue.Empty):
            while (message := self._messages.get_nowait()) is not None:
                messages.append(message)
            self._messages.put(None)
        return messages

    @property
    def errors(self) -> list[str]:
        """The last lines of standard error: of ssh, and of the board."""
        return [*self._errors]

    def kill(self) -> None:
        """End ssh at once; the board sees its standard input close."""
        self._process.kill()

    def close(self) -> None:
        """Let the agent end, and ssh with it."""
        self._closed.set()
        with contextlib.suppress(OSError), self._writing:
            _pipe(self._process.stdin).close()
        self._wait()
        for stream in (self._process.stdout, self._process.stderr):
            _pipe(stream).close()

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _lost(self) -> DroppedError | AgentError:
        code, errors = self._wait(), self.errors
        trace = next((i for i, line in enumerate(errors) if line.startswith("Traceback ")), None)
        if code != SSH_FAILED and trace is not None:
            return AgentError("\n".join(["the agent on the board failed:", *errors[trace:]]))
        return DroppedError(errors[-1] if errors else f"ssh ended with code {code}")

    def _wait(self) -> int:
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._closed.set()
        for thread in self._threads:
            thread.join(_END_S)
        return code

    def _write(self, parts: Iterable[bytes], data: Iterable[bytes] = ()) -> None:
        with self._writing:
            stream = _pipe(self._process.stdin)
            for pieces in (parts, data):
                for piece in pieces:
                    stream.write(piece)
            stream.flush()

    def _live(self) -> None:
        """Say "still here": the board ends a check that nobody waits for, also when the network fell silent."""
        while not self._closed.wait(_STILL_HERE_S):
            try:
                self._write([b"\n"])
            except (OSError, ValueError):
                return

    def _read(self) -> None:
        try:
            for message in self._received(_pipe(self._process.stdout)):
                self._messages.put(message)
        finally:
            self._messages.put(None)

    def _received(self, stream: IO[bytes]) -> Iterator[dict[str, Any]]:
        for line in stream:  # the files that a shell reads first may print
            if line.startswith(MARKER):
                yield {"python": [int(number) for number in line[len(MARKER) :].split()]}
                break
            self._noise = line.decode("utf-8", "replace").strip()[:200] or self._noise
        for line in stream:
            with contextlib.suppress(ValueError):  # a line that was cut off; the end of the output comes next
                message = json.loads(line)
                if "report" in message:
                    message["data"] = {name: stream.read(size) for name, size in message["report"]}
                yield message

    def _read_errors(self) -> None:
        for line in _pipe(self._process.stderr):
            if text := line.decode("utf-8", "replace").strip():
                self._errors.append(text)


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
