"""What can go wrong, as one tree. The exit code of a command is the `exit_code` of the error that ended it.

EdgemimError                 2   the user can mend it; the message says how
├── ConfigError                  a setting is unknown, missing or out of its range
├── DataError                    images or labels are missing or cannot be read
├── ArtifactError                a folder is not the artifact it claims to be, or was altered
├── CheckpointError              weights from elsewhere that cannot be used
├── OutputError                  the output cannot be written (it exists, the disk is full, ...)
├── MissingDependencyError       a package that one plug-in needs is not installed
├── TrainingError                a run cannot go on, or cannot be resumed like this
├── Preempted                75  the system asked the run to stop; resume to go on
├── EndedElsewhere            *  another process of the same run failed, and told why; its exit code
└── DeviceError              3   the device or a vendor library failed

Messages say what is wrong, what was found and what to do; one line, lower case, no full stop.
"""

from __future__ import annotations

from collections.abc import Sequence

EXIT_OK = 0
EXIT_GATE_MISSED = 1
EXIT_USER = 2
EXIT_DEVICE = 3
EXIT_BUG = 4
EXIT_PREEMPTED = 75
EXIT_INTERRUPTED = 130


class EdgemimError(Exception):
    """Something the user can act on."""

    exit_code = EXIT_USER


class ConfigError(EdgemimError):
    """A setting is unknown, missing or out of its range."""


class DataError(EdgemimError):
    """Images or labels are missing or cannot be read."""


class ArtifactError(EdgemimError):
    """A folder is not the artifact it claims to be, or was altered after it was written."""


class CheckpointError(EdgemimError):
    """Weights from elsewhere that cannot be used."""


class OutputError(EdgemimError):
    """The output cannot be written."""


class MissingDependencyError(EdgemimError, ImportError):
    """A package that one plug-in needs is not installed."""

    def __init__(self, what: str, package: str, extra: str, command: str | None = None) -> None:
        run = command or f"pip install 'edgemim[{extra}]'"
        super().__init__(f"{what} needs the package {package!r}, which is not installed; run: {run}")
        self._arguments = (what, package, extra, command)

    def __reduce__(self) -> tuple[type[MissingDependencyError], tuple[str, str, str, str | None]]:
        """Rebuild from the arguments: a worker process hands its errors over pickled."""
        return type(self), self._arguments


class TrainingError(EdgemimError):
    """A run cannot go on: its loss is not finite, or the state to resume from does not fit."""


class Preempted(EdgemimError):  # noqa: N818  (a state of the run, not a mistake)
    """The system asked the run to stop; its state is saved."""

    exit_code = EXIT_PREEMPTED


class EndedElsewhere(EdgemimError):  # noqa: N818  (told by the process that failed)
    """Another process of the same run failed and told why; this one ends without a word.

    Args:
        exit_code: Of the process that failed.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__("")
        self.exit_code = exit_code


class DeviceError(EdgemimError):
    """The device or a vendor library failed."""

    exit_code = EXIT_DEVICE


def first_of(names: Sequence[str], *, most: int = 10, separator: str = ", ") -> str:
    """The first of many names, for a message, and how many more there are."""
    more = len(names) - most
    return separator.join(names[:most]) + (f" and {more} more" if more > 0 else "")
