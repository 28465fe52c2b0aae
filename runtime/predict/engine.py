"""The engine that a report carries, offered to the cache, so that a device need not compile what was compiled there."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from edgemim.artifact import writing
from edgemim.runtime.cache import SIDECAR, engine_key
from edgemim.runtime.report.write import ENGINE


def offer_engine(report: Path, backend: str, cache: Path) -> None:
    """Put the engine of a verified report where `cached_build` looks for it, if nothing is there yet.

    Whether it is taken is decided there: its key is made of the model, the versions, the device and the options, and
    an engine of others is not found.

    Args:
        report: The folder, whose hashes were checked.
        backend: Name of the chosen backend.
        cache: Folder of compiled engines; it need not exist.

    Raises:
        OutputError: The cache cannot be written.
    """
    source = report / ENGINE
    if not (source / SIDECAR).is_file():
        return
    facts = json.loads((source / SIDECAR).read_text("utf-8"))["facts"]
    if facts["backend"] != backend:
        return
    folder = cache / backend / engine_key(facts)
    with writing(cache, instead="set XDG_CACHE_HOME to a folder with room"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.exists():
                partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
                try:
                    shutil.copytree(source, partial, dirs_exist_ok=True)
                    partial.rename(folder)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
