"""Check one bundle on boards elsewhere, side by side, and bring their reports back."""

from __future__ import annotations

import functools
import re
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from edgemim.artifact import Artifact, create_artifact, load_artifact, refuse_existing
from edgemim.errors import EdgemimError
from edgemim.remote.address import Address
from edgemim.remote.combined import Board, write_combined
from edgemim.remote.parcel import make_parcel
from edgemim.remote.session import RETRY_S, RemoteError, Session
from edgemim.runtime.report.read import read_report
from edgemim.runtime.settings import CheckSettings

Progress = Callable[[str, str, int, int], None]


def check_on_boards(
    bundle: Path | str,
    out: Path | str,
    addresses: Sequence[Address],
    settings: CheckSettings,
    *,
    overwrite: bool = False,
    progress: Progress = lambda *_: None,
    retry_s: Sequence[float] = RETRY_S,
) -> dict[str, Any]:
    """Check a bundle on every board at the same time.

    With one board, `out` becomes its report, as a check on the board itself would write it. With several it becomes a
    report on all of them (`edgemim.remote.combined`), with each board's own in a folder of it; a board that failed
    is a row with the reason there.

    Args:
        settings: What each board is told; backends by name.
        progress: Called, from several threads, with the board as the user wrote it, and what `Session` tells.
        retry_s: See `Session`.

    Returns:
        What was written to `report.json`.

    Raises:
        ArtifactError: Not a bundle, or an altered one.
        OutputError: `out` exists, or cannot be written.
        EdgemimError: No board brought a report; the exit code is the highest of theirs.
    """
    out = Path(out)
    refuse_existing(out, overwrite=overwrite)
    source = load_artifact(bundle, "bundle")
    parcel, arguments = make_parcel(source), settings.arguments()
    with tempfile.TemporaryDirectory(prefix="edgemim-") as scratch:
        folders = [Path(scratch) / name for name in folder_names(addresses)]
        sessions = [
            Session(address, parcel, arguments, folder, functools.partial(progress, address.text), retry_s)
            for address, folder in zip(addresses, folders, strict=True)
        ]
        results = _side_by_side(sessions)
        errors = [result for result in results if isinstance(result, EdgemimError)]
        if len(errors) == len(results):
            raise _as_one(errors)
        if isinstance(results[0], Artifact) and len(results) == 1:
            _keep(results[0], out, overwrite=overwrite)
            return read_report(out)
        boards = [
            Board(address=address, folder=folder.name, result=result)
            for address, folder, result in zip(addresses, folders, results, strict=True)
        ]
        return write_combined(out, source, boards, judged=settings.judge, overwrite=overwrite)


def folder_names(addresses: Sequence[Address]) -> list[str]:
    """A folder name per board, each another: `me@nano`, `127.0.0.1-2222`."""
    names: list[str] = []
    for address in addresses:
        user = f"{address.user}@" if address.user else ""
        port = f"-{address.port}" if address.port else ""
        name = re.sub(r"[^\w.@-]+", "-", f"{user}{address.host}{port}").lstrip(".") or "board"
        names.append(name if name not in names else f"{name}-{len(names) + 1}")
    return names


def _as_one(errors: Sequence[EdgemimError]) -> EdgemimError:
    """One error that tells all of them, with the highest of their exit codes."""
    if len(errors) == 1:
        return errors[0]
    traces = [error.trace for error in errors if isinstance(error, RemoteError) and error.trace]
    highest = max(error.exit_code for error in errors)
    return RemoteError("; ".join(map(str, errors)), highest, "\n".join(traces) or None)


def _keep(report: Artifact, out: Path, *, overwrite: bool) -> None:
    """Write the same artifact under its final name."""
    with create_artifact(out, "report", overwrite=overwrite) as draft:
        draft.copy_from(report)
        draft.content = dict(report.content)


def _side_by_side(sessions: Sequence[Session]) -> list[Artifact | EdgemimError]:
    """What each session gave; an interrupt, or a bug in one of them, ends them all, here and on the boards."""
    with ThreadPoolExecutor(len(sessions)) as pool:
        futures = [pool.submit(_run, session) for session in sessions]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            return [future.result() for future in futures]
        finally:
            for session in sessions:
                session.cancel()


def _run(session: Session) -> Artifact | EdgemimError:
    try:
        return session.run()
    except EdgemimError as error:
        return error
