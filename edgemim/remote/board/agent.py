"""The way in: takes an order and what is missing for it, runs the check, hands the report back.

Standard input brings JSON lines, some followed by as many raw bytes as the line announces; standard output takes
JSON lines back in the same way:

    in   {"session", "folder", "files", "wheels", "least", "arguments"}    the order
    out  {"missing": {sha256: bytes that are there}}      again and again, until nothing is missing
    in   {"sha256", "offset"} and the rest of its bytes   one per missing file; an empty line says "still here"
    out  {"received": bytes}                              while they come
    out  {"event": ...}                                   a line of the check: its progress, or how it ended
    out  {"exit_code", "report": [[name, size], ...]}     and then the bytes of these files
    out  {"error", "where"}                               instead of any of them: what the user can mend

The order's `files` are paths below the run's folder, each with its sha256 and size; `wheels` are those of them that go
on PYTHONPATH; `least` are the oldest versions of packages that will do; `arguments` are those of the check.

The folder on the board holds `engines/` (the cache of compiled engines), `remote/files/` (what was copied, by its
sha256; what was not used for two weeks is removed) and, while a check runs, `remote/runs/SESSION/`.

The agent ends, and with it the check, when standard input closes or when nothing was heard for a minute.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from edgemim.remote.board.interpreter import python_path, require
from edgemim.remote.board.link import Gone, Link, Refused, locked
from edgemim.remote.board.run import check, new_run, send_report
from edgemim.remote.board.store import FULL, Store, place

_REPORT_EVERY_S = 0.25
_REFUSED = {
    **FULL,
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EEXIST: "a part of the path is a file",
    errno.ENAMETOOLONG: "a name is too long",
}


def main() -> None:
    """Serve one check; the exit code says only whether the agent itself did its work."""
    sink = os.dup(1)
    os.dup2(2, 1)  # whatever prints does so where it disturbs nobody
    link = Link(0, sink)
    root = Path()
    try:
        link.send({"ready": True})
        order = link.line()
        root = _root(order["folder"])
        serve(link, order, root)
    except Gone:
        sys.exit(0)
    except Refused as error:
        link.send({"error": str(error), "where": error.where})
    except OSError as error:
        why = _REFUSED.get(error.errno or 0)
        if why is None:
            raise
        link.send({"error": f"cannot write {error.filename or root} there: {why}", "where": True})


def serve(link: Link, order: dict[str, Any], root: Path) -> None:
    """Carry out one order."""
    require(order["least"])
    store = Store(root / "remote" / "files")
    with new_run(root / "remote" / "runs" / order["session"], link) as run:
        with locked(store.folder.with_suffix(".lock"), link, "another command is copying to this board"):
            receive(link, store, order["files"], root)
            for name, file in order["files"].items():
                place(store.path(file["sha256"]), run / name)
        path = python_path(run, order["wheels"])
        exit_code = check(link, run, path, order["arguments"], root / "engines")
        send_report(link, run / "report", exit_code)
        store.prune()


def receive(link: Link, store: Store, files: dict[str, dict[str, Any]], root: Path) -> None:
    """Ask for what is missing until nothing is: what arrived damaged is missing again."""
    wanted = {file["sha256"]: file["size"] for file in files.values()}
    while missing := store.missing(wanted):
        needed = sum(wanted[sha256] - there for sha256, there in missing.items())
        free = shutil.disk_usage(root).free
        if needed > free:
            raise Refused(
                f"the disk of {root} is full there: {needed:,} bytes are needed, {free:,} are free", where=True
            )
        link.send({"missing": missing})
        told, received = 0.0, 0
        for _ in missing:
            header = link.line()
            for count in store.take(header["sha256"], header["offset"], wanted[header["sha256"]], link):
                received += count
                if time.monotonic() - told > _REPORT_EVERY_S:
                    link.send({"received": received})
                    told = time.monotonic()
    link.send({"missing": {}})


def _root(folder: str | None) -> Path:
    home = Path.home()
    cache = os.environ.get("XDG_CACHE_HOME") or ".cache"
    root = home / cache / "edgemim" if folder is None else home / folder
    root.mkdir(parents=True, exist_ok=True)
    return root
