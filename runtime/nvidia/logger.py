"""What NVIDIA's library says while it parses and builds: its errors for the user, and the last lines before a refusal.

The library keeps the first logger that it is given, for the whole process, so there is one per package.
"""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Iterator
from typing import Any

from edgemim.runtime.nvidia.library import Library

_ERRORS = ("ERROR", "INTERNAL_ERROR")
# A verbose build says hundreds of thousands of lines, of which a board's memory is no place.
_QUIET = ("VERBOSE",)
_KEPT = 500
_TAIL = 3
_LONGEST_LINE = 300


class Log:
    """The messages of one library, in order.

    Attributes:
        handle: What the library's constructors take: an instance of its `ILogger`.
        messages: Latest messages; those of severity VERBOSE only inside `recording`.
        errors: Those of severity ERROR and INTERNAL_ERROR.
    """

    def __init__(self) -> None:
        self.handle: Any = None
        self.messages: deque[str] | list[str] = deque(maxlen=_KEPT)
        self.errors: deque[str] = deque(maxlen=_KEPT)
        self._everything = False

    def add(self, severity: str, message: str) -> None:
        """Called by the library, from any of its threads; never raises."""
        if severity in _ERRORS:
            self.errors.append(message)
        if self._everything or severity not in _QUIET:
            self.messages.append(message)

    def clear(self) -> None:
        """Forget what was said."""
        self.messages.clear()
        self.errors.clear()

    @contextlib.contextmanager
    def recording(self) -> Iterator[list[str]]:
        """Keep every message said inside the block, verbose ones too, in the list that this gives."""
        kept: list[str] = []
        before, self.messages, self._everything = self.messages, kept, True
        try:
            yield kept
        finally:
            self.messages, self._everything = before, False

    def reasons(self) -> str:
        """The last errors in one line, or where there are none the last lines that were said."""
        lines = list(self.errors)[-_TAIL:] or list(self.messages)[-_TAIL:]
        return "; ".join(" ".join(line.split())[:_LONGEST_LINE] for line in lines) or "no reason was given"


def open_log(library: Library) -> Log:
    """The one log of this library in this process, as it stands: `clear` it before what is to be heard."""
    return _log(library.module)


@functools.cache
def _log(trt: Any) -> Log:
    log = Log()

    class Logger(trt.ILogger):
        """Hands over what is said."""

        def __init__(self) -> None:
            # Not super(): the binding asks for the base class to be named.
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.add(severity.name, str(message))

    log.handle = Logger()
    return log
