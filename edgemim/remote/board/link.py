"""Both directions of the connection, as seen from the board: JSON lines, and raw bytes that they announce."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SILENCE_S = 60
STEP = 1 << 20
_LOCK_WAIT_S = 2 * SILENCE_S


class Gone(Exception):  # noqa: N818  (not a mistake of anybody)
    """The other side is no longer there."""


class Refused(Exception):  # noqa: N818
    """Something the user can mend, told in one line; `where` says that another folder would do."""

    def __init__(self, message: str, *, where: bool = False) -> None:
        super().__init__(message)
        self.where = where


class Link:
    """Both directions of the connection. Whatever waits for the other side gives up after `SILENCE_S`."""

    def __init__(self, source: int, sink: int) -> None:
        self.source, self._sink = source, sink
        self._held = b""
        signal.signal(signal.SIGALRM, _give_up)

    def line(self) -> dict[str, Any]:
        """The next JSON line."""
        while True:
            while b"\n" not in self._held:
                self._held += self._more(STEP)
            line, _, self._held = self._held.partition(b"\n")
            if line.strip():
                message = json.loads(line)
                assert isinstance(message, dict)
                return message

    def some(self, most: int) -> bytes:
        """At least one and at most `most` raw bytes."""
        data = self._held[:most] or self._more(most)
        self._held = self._held[len(data) :]
        return data

    def drain(self) -> None:
        """Throw away what waits to be read: signs of life."""
        self._more(STEP)

    def send(self, message: dict[str, Any], *, data: bytes = b"") -> None:
        """One JSON line, and raw bytes."""
        rest = memoryview(json.dumps(message).encode() + b"\n" + data if message else data)
        while rest:
            signal.alarm(SILENCE_S)
            try:
                rest = rest[os.write(self._sink, rest[:STEP]) :]
            except BrokenPipeError as error:
                raise Gone from error
            finally:
                signal.alarm(0)

    def _more(self, most: int) -> bytes:
        signal.alarm(SILENCE_S)
        try:
            data = os.read(self.source, most)
        finally:
            signal.alarm(0)
        if not data:
            raise Gone
        return data


@contextmanager
def locked(path: Path, link: Link, who: str) -> Iterator[None]:
    """Hold a lock; while another agent does, look whether the other side is still there."""
    with open(path, "a") as lock:
        until = time.monotonic() + _LOCK_WAIT_S
        while not try_lock(lock.fileno()):
            if time.monotonic() > until:
                raise Refused(f"{who} there; wait until it has ended")
            if select.select([link.source], [], [], 0.2)[0]:
                link.drain()
        yield


def try_lock(descriptor: int) -> bool:
    """Lock an open file, unless another process has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _give_up(*_: object) -> None:
    raise Gone
