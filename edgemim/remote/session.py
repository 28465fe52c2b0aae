"""One check on one board, through as many connections as it takes."""

from __future__ import annotations

import contextlib
import secrets
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from edgemim.artifact import Artifact, load_artifact, sha256_of
from edgemim.errors import (
    EXIT_DEVICE,
    EXIT_GATE_MISSED,
    EXIT_OK,
    EXIT_USER,
    ArtifactError,
    DeviceError,
    EdgemimError,
)
from edgemim.remote.address import Address
from edgemim.remote.connection import Connection, DroppedError
from edgemim.remote.failures import UnreachableError
from edgemim.remote.parcel import Parcel, Piece

# Seconds to wait before another try; counted anew whenever a try has copied something.
RETRY_S = (1.0, 3.0, 10.0, 30.0)
# A file that arrives altered so often does not do so by chance.
_MOST_ROUNDS = 3
# Those of Ubuntu 22.04, and thus of JetPack 6.
_LEAST = {"numpy": "1.21", "PIL": "9.0"}

Progress = Callable[[str, int, int], None]


class RemoteError(EdgemimError):
    """A check ended with an error on a board; here it ends with the same exit code.

    Attributes:
        trace: Lines of the board's traceback, where it was a bug; else None.
    """

    def __init__(self, message: str, exit_code: int = EXIT_USER, trace: str | None = None) -> None:
        super().__init__(message)
        self.exit_code, self.trace = exit_code, trace


class Session:
    """See the module's text. `run` may be called once; `cancel` ends it from another thread.

    Args:
        arguments: Of `python3 -m edgemim.runtime check`, after the bundle.
        folder: An empty folder for the report.
        progress: Called with what is being done (`copy`, `check`, `reconnect`) and how far it is: (done, in all), in
            bytes, steps, tries.
        retry_s: Seconds to wait before each further try.
    """

    def __init__(
        self,
        address: Address,
        parcel: Parcel,
        arguments: Sequence[str],
        folder: Path,
        progress: Progress,
        retry_s: Sequence[float] = RETRY_S,
    ) -> None:
        self._address, self._parcel, self._arguments = address, parcel, [*arguments]
        self._folder, self._progress, self._retry_s = folder, progress, retry_s
        self._name = secrets.token_hex(8)
        self._cancelled = threading.Event()
        self._connection: Connection | None = None
        self._copied = False

    def run(self) -> Artifact:
        """Copy, check, fetch; after a connection that dropped, what was copied is not copied again.

        Returns:
            The report, verified; a gate may have been missed.

        Raises:
            UnreachableError: The board cannot be reached, or runs no Python.
            RemoteError: The board lacks something, or the check ended with an error there.
            DeviceError: The connection dropped again and again.
            ArtifactError: A file arrives altered again and again.
        """
        opened, tries = False, 0
        while True:
            self._copied = False
            try:
                with self._connect() as connection:
                    opened = True
                    return self._serve(connection)
            except (DroppedError, UnreachableError) as error:
                if self._cancelled.is_set() or (isinstance(error, UnreachableError) and not opened):
                    raise
                tries = 1 if self._copied else tries + 1
                if tries > len(self._retry_s):
                    raise DeviceError(
                        f"{self._address.text}: the connection dropped again and again: {error}"
                    ) from error
            self._progress("reconnect", tries, len(self._retry_s))
            self._cancelled.wait(self._retry_s[tries - 1])

    def cancel(self) -> None:
        """End `run` with an error, and what runs on the board."""
        self._cancelled.set()
        if self._connection is not None:
            self._connection.kill()

    @contextlib.contextmanager
    def _connect(self) -> Iterator[Connection]:
        with Connection(self._address) as connection:
            self._connection = connection
            if self._cancelled.is_set():
                connection.kill()
            connection.open()
            yield connection

    def _serve(self, connection: Connection) -> Artifact:
        """Send the order, then answer until the report is here."""
        connection.send(self._order())
        rounds, failure = 0, None
        while True:
            message = self._passed(connection.receive())
            if missing := message.get("missing"):
                rounds += 1
                if rounds > _MOST_ROUNDS:
                    raise self._altered(missing)
                self._copy(connection, missing)
            elif "event" in message:
                event = message["event"]
                if "progress" in event:
                    self._progress("check", *event["progress"])
                failure = event if "error" in event else failure
            elif "exit_code" in message:
                # A check in which nothing ran right ends as a failed device, and its report says why.
                ended = message["exit_code"] in (EXIT_OK, EXIT_GATE_MISSED, EXIT_DEVICE)
                if ended and failure is None and message["report"]:
                    return self._fetch(message["data"])
                raise self._failure(message["exit_code"], failure, connection.errors)

    def _order(self) -> dict[str, Any]:
        return {
            "session": self._name,
            "folder": self._address.folder,
            "files": {piece.name: {"sha256": piece.sha256, "size": piece.size} for piece in self._parcel.pieces},
            "wheels": self._parcel.wheels,
            "least": _LEAST,
            "arguments": [self._parcel.bundle, *self._arguments],
        }

    def _passed(self, message: dict[str, Any]) -> dict[str, Any]:
        """The message, unless the agent refuses to go on."""
        if "error" not in message:
            return message
        cure = ""
        if message["where"]:
            folder = "another folder" if self._address.folder else "a folder"
            cure = f"; free some space there, or name {folder} in the address: ssh://host/FOLDER"
        raise RemoteError(f"{self._address.text}: {message['error']}{cure}")

    def _copy(self, connection: Connection, missing: Mapping[str, int]) -> None:
        """Send what is missing, from where an earlier connection ended."""
        pieces = self._parcel.by_hash()
        total = sum(pieces[sha256].size - offset for sha256, offset in missing.items())
        self._progress("copy", 0, total)

        def watched(piece: Piece, offset: int) -> Iterator[bytes]:
            for data in piece.read(offset):
                for message in map(self._passed, connection.waiting()):
                    self._copied = True
                    self._progress("copy", message["received"], total)
                yield data

        try:
            for sha256, offset in missing.items():
                header = {"sha256": sha256, "offset": offset}
                connection.send(header, watched(pieces[sha256], offset))
        except DroppedError:
            for message in connection.waiting():  # it may have said why
                self._passed(message)
            raise

    def _altered(self, missing: Mapping[str, int]) -> ArtifactError:
        piece = self._parcel.by_hash()[next(iter(missing))]
        if isinstance(piece.source, Path) and sha256_of(piece.source) != piece.sha256:
            return ArtifactError(f"{piece.source} changed while it was copied; write the bundle again")
        return ArtifactError(
            f"{self._address.text}: {PurePosixPath(piece.name).name} arrived altered {_MOST_ROUNDS} times (another "
            "sha256 there than here); look at the network, and at the disk and the memory of the board"
        )

    def _failure(self, code: int, failure: Mapping[str, Any] | None, errors: Sequence[str]) -> RemoteError:
        """What ended a check that brought no report."""
        if failure is not None:
            return RemoteError(f"{self._address.text}: {failure['error']}", failure["exit_code"], failure["traceback"])
        last = f" ({errors[-1]})" if errors else ""
        if code == -signal.SIGKILL:
            what = "was killed there, most likely for want of memory; close other programs, or leave candidates out"
        elif code < 0:
            what = f"crashed there in native code: {signal.strsignal(-code)}{last}"
        else:
            what = f"ended there with code {code}{last}"
        return RemoteError(f"{self._address.text}: the check {what}", EXIT_DEVICE)

    def _fetch(self, files: Mapping[str, bytes]) -> Artifact:
        """Write the report's files and verify them; a board may not name one outside the folder."""
        for name, data in files.items():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise RemoteError(f"{self._address.text} sent a file with the name {name!r}; do not trust this board")
            target = self._folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        try:
            return load_artifact(self._folder, "report")
        except ArtifactError as error:
            raise ArtifactError(f"the report of {self._address.text} arrived damaged; check again ({error})") from error
