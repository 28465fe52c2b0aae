"""The process of its own: does what one line on standard input orders, and tells of it in lines on standard output.

    in   {"bundle", "backend", "candidate", "cache", "threads", "rebuild", "engine"}    the order
    out  {"stage": "import" | "compile" | "load" | "run"}    what it begins now
    out  {"compiled": {...}, "engine": {...}}                the engine, when it was compiled or found
    out  {"cold_start": {...}, "memory": {...}, "library": {...}, "own": {...}}    and the process ends
    out  {"error", "kind"}                                   instead of any of them

With an engine in the order nothing is compiled. Without one, an engine that an earlier run compiled is loaded at once;
where one had to be compiled the process ends after that, since its memory would hide what loading and running take.

It ends when standard input closes, thus with the process that started it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgemim.errors import EdgemimError
from edgemim.runtime.backends import BACKENDS
from edgemim.runtime.backends._base import Backend, Engine
from edgemim.runtime.bundle import Bundle, load_bundle
from edgemim.runtime.candidates import Candidate
from edgemim.runtime.probe.resident import peak_resident_mb
from edgemim.runtime.probe.room import Taken, taken

Tell = Callable[[Mapping[str, Any]], None]

# A session may set itself up until the third run, which is the first that uses a CUDA graph.
_RUNS = 3
_MOST_WANTED = "1000"


def main() -> None:
    """Serve one order and end; a bug ends the process with its traceback."""
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    _die_first()
    tell = _own_lines()
    try:
        serve(order, tell)
    except EdgemimError as error:
        tell({"error": str(error), "kind": type(error).__name__})
    except MemoryError:
        tell({"error": "", "kind": "MemoryError"})
    # Without the ends of vendor libraries, which have nothing more to say.
    os._exit(0)


def serve(order: Mapping[str, Any], tell: Tell) -> None:
    """Carry out one order.

    Raises:
        EdgemimError: The bundle has changed, or the vendor library failed.
    """
    backend: Backend = BACKENDS.get(order["backend"])()
    bundle = load_bundle(order["bundle"])
    base_mb, base = peak_resident_mb(), taken()
    tell({"stage": "import"})
    import_s = _import(backend)
    imported = taken()
    if order["engine"] is None:
        tell({"stage": "compile"})
        engine = _compile(backend, bundle, order)
        peak_mb = None if engine.cached else peak_resident_mb()
        tell({"engine": _as_plain(engine), "compiled": _compiled(engine) | {"compile_peak_mb": peak_mb}})
        if not engine.cached:
            return
    else:
        engine = _from_plain(order["engine"])
    _start(backend, bundle, engine, import_s, base_mb, tell, (base, imported))


def _compile(backend: Backend, bundle: Bundle, order: Mapping[str, Any]) -> Engine:
    candidate, cache = Candidate(**order["candidate"]), Path(order["cache"])
    engine = backend.compile(bundle, candidate, cache, order["threads"])
    if not order["rebuild"] or not engine.cached or engine.folder is None:
        return engine
    shutil.rmtree(engine.folder, ignore_errors=True)
    return backend.compile(bundle, candidate, cache, order["threads"])


def _footprint(base: Taken | None, imported: Taken | None) -> dict[str, Any]:
    """What importing the library took, and everything since then; None where the kernel does not tell."""
    now = taken(at_most=True)
    if base is None or imported is None or now is None:
        return {"library": None, "own": None}
    return {"library": asdict(imported - base), "own": asdict(now - imported)}


def _start(
    backend: Backend,
    bundle: Bundle,
    engine: Engine,
    import_s: float | None,
    base_mb: float,
    tell: Tell,
    before: tuple[Taken | None, Taken | None],
) -> None:
    """Load, run, and tell what it took."""
    inputs, _ = next(bundle.golden_batches())
    tell({"stage": "load"})
    started = time.perf_counter_ns()
    # Inside the clock: where the device has to be woken up for it, loading would have to do that.
    free_before = backend.free_device_memory()
    session = backend.open(engine)
    load_s = (time.perf_counter_ns() - started) / 1e9
    tell({"stage": "run"})
    times_ms = []
    for _ in range(_RUNS):
        started = time.perf_counter_ns()
        session.run(inputs)
        times_ms.append((time.perf_counter_ns() - started) / 1e6)
    device_mb = _taken_mb(free_before, backend.free_device_memory())
    tell(
        {
            "cold_start": {"import_s": import_s, "load_s": load_s, "first_ms": times_ms[0]},
            "memory": {
                "peak_mb": peak_resident_mb(),
                "base_mb": base_mb,
                "device_mb": device_mb,
                "device_reason": None if device_mb is not None else f"{backend.name} computes in the host's memory",
            },
            **_footprint(*before),
        }
    )


def _taken_mb(before: int | None, after: int | None) -> float | None:
    """What is no longer free; never less than nothing, though another process may have given some back."""
    return None if before is None or after is None else max(0.0, (before - after) / 1e6)


def _import(backend: Backend) -> float | None:
    """Seconds that importing the vendor package takes; None if it fails, of which loading will say more."""
    here = (name for name in (backend.module, *backend.alternatives) if importlib.util.find_spec(name) is not None)
    started = time.perf_counter_ns()
    with contextlib.suppress(ImportError, OSError, RuntimeError, StopIteration):
        importlib.import_module(next(here))
        return (time.perf_counter_ns() - started) / 1e9
    return None


def _compiled(engine: Engine) -> dict[str, Any]:
    return {
        "compile_s": engine.compile_s,
        "compiled_before": engine.cached,
        "compile_first_ms": engine.compiled_first_ms,
    }


def _as_plain(engine: Engine) -> dict[str, Any]:
    folder = None if engine.folder is None else str(engine.folder)
    return asdict(engine) | {"file": str(engine.file), "folder": folder, "options": dict(engine.options)}


def _from_plain(values: Mapping[str, Any]) -> Engine:
    folder = None if values["folder"] is None else Path(values["folder"])
    return Engine(**{**values, "file": Path(values["file"]), "folder": folder})


def _own_lines() -> Tell:
    """Standard output for our lines alone: vendor libraries write into it too, and get standard error instead."""
    stream = open(os.dup(1), "w", encoding="utf-8")  # noqa: SIM115  (open until the process ends)
    os.dup2(2, 1)

    def tell(message: Mapping[str, Any]) -> None:
        stream.write(json.dumps(message) + "\n")
        stream.flush()

    return tell


def _die_first() -> None:
    """Let the kernel end this process, and not the check or the desktop, where memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_MOST_WANTED, "ascii")


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)
