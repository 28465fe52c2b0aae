"""Compiled engines, kept between runs: found by what they were made from, verified before they are used.

The key is the sha256 of the facts an engine depends on (model hash, backend and version, device, options), so
an engine of another driver or board is never found. Its facts and file hashes lie beside it in `engine.json`,
written last: a build that was cut off, or a file that was altered since, is built again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from edgemim.artifact import sha256_of, write_text, writing
from edgemim.errors import ConfigError, DeviceError

SIDECAR = "engine.json"
_WAIT_S = 1800.0
# A check that is about to end is waited for.
_PATIENCE_S = 20.0
_ELSEWHERE = "set XDG_CACHE_HOME to a folder with room"

Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class Built:
    """A folder of the cache.

    Attributes:
        seconds: What building it took.
        observed: What was measured when it had been built.
        cached: Whether it was there already.
    """

    folder: Path
    seconds: float
    observed: Mapping[str, float]
    cached: bool


def default_cache() -> Path:
    """The user's folder of compiled engines."""
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("edgemim")) / "engines"


def cached_build(
    cache: Path,
    facts: Mapping[str, Any],
    build: Callable[[Path], Made],
    *,
    observe: Callable[[Made], Mapping[str, float]] = lambda _: {},
    clock: Callable[[], float] = time.perf_counter,
) -> Built:
    """The folder of the engine with these facts; `build(folder)` fills it if it is not there yet.

    Two processes that want the same engine build it once.

    Args:
        observe: Called with what `build` returned, once the clock of `seconds` has stopped; the numbers that it
            returns are kept beside the engine.

    Raises:
        OutputError: The cache cannot be written.
        DeviceError: Another process has been building it for half an hour.
    """
    folder = cache / str(facts["backend"]) / engine_key(facts)
    with writing(cache, instead=_ELSEWHERE):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder.with_suffix(".lock"), timeout=_WAIT_S):
                return _find(folder, facts) or _build(folder, facts, build, observe, clock)
        except Timeout as error:
            raise DeviceError(f"another process is still building {folder}; wait for it, or end it") from error


@contextlib.contextmanager
def the_only_check(cache: Path) -> Iterator[None]:
    """Hold the lock of this cache while measuring: two checks at once would disturb each other's numbers.

    Raises:
        ConfigError: Another process holds it.
        OutputError: The cache cannot be written.
    """
    with writing(cache, instead=_ELSEWHERE):
        cache.mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache / "check.lock", timeout=_PATIENCE_S)
        try:
            lock.acquire()
        except Timeout as error:
            raise ConfigError(
                "another check is running on this device, and two at once would disturb each other's latencies; "
                "wait until it is done, or end it"
            ) from error
    try:
        yield
    finally:
        lock.release()


def engine_key(facts: Mapping[str, Any]) -> str:
    """32 hex digits that differ as soon as one fact does."""
    text = json.dumps(facts, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _build(
    folder: Path,
    facts: Mapping[str, Any],
    build: Callable[[Path], Made],
    observe: Callable[[Made], Mapping[str, float]],
    clock: Callable[[], float],
) -> Built:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    started = clock()
    made = build(folder)
    seconds = clock() - started
    observed = dict(observe(made))
    files = {f.relative_to(folder).as_posix(): sha256_of(f) for f in sorted(folder.rglob("*")) if f.is_file()}
    sidecar = {"facts": dict(facts), "files": files, "compile_s": seconds, "observed": observed}
    write_text(folder / SIDECAR, json.dumps(sidecar, indent=2, allow_nan=False) + "\n")
    return Built(folder=folder, seconds=seconds, observed=observed, cached=False)


def _find(folder: Path, facts: Mapping[str, Any]) -> Built | None:
    """The engine in `folder`; None if it is missing, another one, or damaged."""
    try:
        sidecar = json.loads((folder / SIDECAR).read_text("utf-8"))
        same = sidecar["facts"] == json.loads(json.dumps(facts))
        whole = all(sha256_of(folder / name) == digest for name, digest in sidecar["files"].items())
        if not (same and whole and sidecar["files"]):
            return None
        seconds, observed = float(sidecar["compile_s"]), {name: float(v) for name, v in sidecar["observed"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Built(folder=folder, seconds=seconds, observed=observed, cached=True)
