"""In place of filelock: the lock that it takes on Linux, so that both see each other's."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

__version__ = "0"
_LOOK_EVERY_S = 0.05


class Timeout(TimeoutError):  # noqa: N818  (filelock's name)
    """The lock was held by somebody else for as long as one was ready to wait."""


class FileLock:
    """An exclusive lock on a file, held by this process until it is released or ends.

    Args:
        lock_file: Made if it is not there; it stays afterwards.
        timeout: Seconds to wait; a negative number waits for ever.
    """

    def __init__(self, lock_file: str | Path, timeout: float = -1) -> None:
        self.lock_file, self.timeout = str(lock_file), timeout
        self._descriptor: int | None = None

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            Timeout: Somebody else held it all the time.
        """
        descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o644)
        until = time.monotonic() + self.timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if self.timeout >= 0 and time.monotonic() >= until:
                    os.close(descriptor)
                    raise Timeout(self.lock_file) from error
                time.sleep(_LOOK_EVERY_S)
            else:
                self._descriptor = descriptor
                return

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
