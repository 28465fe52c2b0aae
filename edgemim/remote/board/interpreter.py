"""Whether this Python can run a check straight from the wheels, and what to install if it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgemim.remote.board.link import Refused

_PROBE = """
import filelock, json, platformdirs, sys, tempfile
platformdirs.user_cache_dir("edgemim")
with tempfile.TemporaryDirectory() as folder, filelock.FileLock(folder + "/lock", timeout=1):
    pass
"""
_VERSIONS = """
import importlib, json
found = {}
for name in ("numpy", "PIL"):
    try:
        found[name] = importlib.import_module(name).__version__
    except ImportError as error:
        found[name] = None
print(json.dumps(found))
"""


def require(least: dict[str, str]) -> None:
    """Refuse a Python whose numpy or Pillow is missing, does not work, or is too old."""
    done = _python(_VERSIONS)
    if done.returncode:
        raise Refused(f"numpy or pillow of {sys.executable} does not work there: {_last_line(done.stderr)}")
    for name, version in json.loads(done.stdout.splitlines()[-1]).items():
        called, apt = {"PIL": ("pillow", "python3-pil")}.get(name, (name, f"python3-{name}"))
        if version is None:
            raise Refused(
                f"{called} is not installed for {sys.executable} (Python {_version()}) there; "
                f"run there: sudo apt install {apt}, or name another interpreter with ?python="
            )
        if _numbers(version) < _numbers(least[name]):
            raise Refused(
                f"{called} {version} of {sys.executable} is too old there, {least[name]} is needed; "
                f"run there: python3 -m pip install --user '{called}>={least[name]}'"
            )


def python_path(run: Path, wheels: list[str]) -> str:
    """PYTHONPATH with the wheels, relative to the folder the check runs in: a colon in a path would split it.

    Beside edgemim, the first of the wheels, stand the packages that were copied; where they do not work with this
    Python, its own; where it has none, the stand-ins, the last of the wheels.
    """
    edgemim, *copied, standins = (os.path.join("..", wheel) for wheel in wheels)
    for beside in (copied, [], [standins]):
        path = os.pathsep.join([edgemim, *beside, *filter(None, [os.environ.get("PYTHONPATH")])])
        done = _python(_PROBE, cwd=run / "work", env=environment(path))
        if done.returncode == 0:
            return path
    raise Refused(f"Python {_version()} does not work as it should there: {_last_line(done.stderr)}")


def environment(path: str) -> dict[str, str]:
    """Variables for a Python that runs from the wheels."""
    return {**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def _python(code: str, **where: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **where)


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: 1.26.4 of 1.26.4+local."""
    numbers = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def _version() -> str:
    return ".".join(map(str, sys.version_info[:2]))


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")
