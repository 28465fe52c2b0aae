"""Start the process of its own, listen to it, and say what ended it when it did not end well."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import IO, Any

from edgemim.errors import ArtifactError, ConfigError, DeviceError, OutputError
from edgemim.runtime.probe.limits import memory_limit, process_limit

# Seconds without a sign of life in a stage, far above what the slowest board takes.
PATIENCE_S: Mapping[str, float] = {"start": 600, "import": 600, "compile": 7200, "load": 900, "run": 600}

_DOING = {
    "start": "starting",
    "import": "importing its package",
    "compile": "compiling {}",
    "load": "loading {}",
    "run": "running {}",
}
_KINDS = {kind.__name__: kind for kind in (ArtifactError, ConfigError, OutputError, DeviceError)}
_CRASHES = {
    signal.SIGABRT: "its library gave up",
    signal.SIGBUS: "a file that it reads was cut off, or memory is gone",
    signal.SIGFPE: "its library crashed",
    signal.SIGILL: "it was built for a CPU with other instructions",
    signal.SIGSEGV: "its library crashed",
    signal.SIGXCPU: "the limit of CPU time (ulimit -t) was reached",
}
# How libraries say that the system gave them no memory.
_NO_MEMORY = (
    "bad_alloc",
    "bad allocation",
    "cannot allocate memory",
    "failed to map segment",
    "memory allocation",
    "memoryerror",
    "out of memory",
)
_STEP, _TICK_S, _LONGEST = 1 << 16, 1.0, 200
# The same modules as here, from wherever they came, and nothing from the folder that the user happens to be in.
_CODE = "import sys; sys.path[:] = {!r}; from edgemim.runtime.probe.child import main; main()"


def run_child(order: Mapping[str, Any], *, patience_s: Mapping[str, float] = PATIENCE_S) -> dict[str, Any]:
    """What the process tells, all lines in one.

    Args:
        order: See `edgemim.runtime.probe.child`.
        patience_s: Seconds that each stage may take.

    Raises:
        DeviceError: It was killed, crashed or does not get on; or its vendor library failed.
        ArtifactError, ConfigError, OutputError: As in the process.
    """
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [sys.executable, "-c", _CODE.format(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        found: dict[str, Any] = {"stage": "start"}
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended at once, of which its exit code tells
                child.stdin.write(json.dumps(order).encode() + b"\n")
                child.stdin.flush()
            _listen(child, found, order, patience_s)
            if "error" in found:
                raise _its_error(found, order)
            if not ("cold_start" in found or found.get("compiled", {}).get("compiled_before") is False):
                raise DeviceError(_ending(child.wait(), found["stage"], order, _last_line(errors)))
            return found
        finally:
            child.kill()
            child.wait()
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()
            child.stdout.close()


def _listen(
    child: subprocess.Popen[bytes], found: dict[str, Any], order: Mapping[str, Any], patience_s: Mapping[str, float]
) -> None:
    """Gather its lines in `found` until it ends."""
    assert child.stdout is not None
    output, held, heard = child.stdout.fileno(), b"", time.monotonic()
    while True:
        ready, _, _ = select.select([output], [], [], _TICK_S)
        if ready:
            data = os.read(output, _STEP)
            if not data:
                return
            *lines, held = (held + data).split(b"\n")
            for line in lines:
                found.update(json.loads(line))
            heard = time.monotonic()
        elif child.poll() is not None:
            return  # something that it started still holds its output
        elif time.monotonic() - heard > patience_s[found["stage"]]:
            raise DeviceError(
                f"{_what(order)} hangs while {_doing(found['stage'], order)}: nothing happened for "
                f"{patience_s[found['stage']]:g} s; {_leave_out(order)}"
            )


def _its_error(found: Mapping[str, Any], order: Mapping[str, Any]) -> Exception:
    """The error that ended the process, to be raised here."""
    message = found["error"]
    if found["kind"] == "MemoryError" or any(words in message.lower() for words in _NO_MEMORY):
        said = f" ({message})" if message else ""
        return DeviceError(
            f"{_what(order)} ran out of memory while {_doing(found['stage'], order)}{said}: {_cure(order)}"
        )
    kind = _KINDS.get(found["kind"], DeviceError)
    return kind(f"{message}{_maybe_limit()}" if kind is DeviceError else message)


def _ending(code: int, stage: str, order: Mapping[str, Any], said: str) -> str:
    """One sentence about a process that ended without its last line."""
    doing = f"while {_doing(stage, order)}"
    said = f" ({said})" if said else ""
    no_memory = any(words in said.lower() for words in _NO_MEMORY)
    if code == -signal.SIGKILL:
        return f"{_what(order)} was killed {doing} (SIGKILL), most likely for want of memory: {_cure(order)}"
    if no_memory:
        return f"{_what(order)} ran out of memory {doing}{said}: {_cure(order)}"
    if code < 0:
        number = -code
        name = signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"
        why = _CRASHES.get(number, "another program ended it")  # type: ignore[call-overload]
        return f"{_what(order)} ended {doing} with {name}: {why}{said}{_maybe_limit()}; {_leave_out(order)}"
    return f"{_what(order)} ended {doing} with exit code {code}{said}{_maybe_limit()}; {_leave_out(order)}"


def _what(order: Mapping[str, Any]) -> str:
    return f"backend {order['backend']!r}"


def _doing(stage: str, order: Mapping[str, Any]) -> str:
    return _DOING[stage].format(order["candidate"]["name"])


def _cure(order: Mapping[str, Any]) -> str:
    return f"it may have {memory_limit()}; close other programs, raise the limit, or {_leave_out(order)}"


def _maybe_limit() -> str:
    """Where memory is limited, that may be behind any failure: few libraries say so."""
    limit = process_limit()
    return "" if limit is None else f"; it may have {limit}"


def _leave_out(order: Mapping[str, Any]) -> str:
    return f"leave {order['candidate']['name']!r} out by naming the others with --candidate"


def _last_line(errors: IO[bytes]) -> str:
    """What was last written to standard error that is not empty."""
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - _STEP))
    lines = errors.read().decode("utf-8", errors="replace").splitlines()
    return next((line.strip()[:_LONGEST] for line in reversed(lines) if line.strip()), "")
