"""What a power sensor gives: watts of now, or joules so far, by rail."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar


class UnreadableError(Exception):
    """Why power cannot be read here, and what to run where that mends it; `PowerMeter` makes a missing number of it."""

    def __init__(self, reason: str, cure: str | None = None) -> None:
        super().__init__(reason if cure is None else f"{reason}; {cure}")
        self.reason, self.cure = reason, cure


class Source(ABC):
    """The power sensors of this machine.

    Attributes:
        name: Of the kind of sensor.
        counts: True if `read` gives joules since some moment, which only grow; False if it gives watts.
        rails: Everything that is read.
        parts: The rails that add up to the total; empty if none are known to.
        scope: What that total covers, in words.
        averages_s: Seconds that one reading is the mean of, 0 if it is of the moment.
    """

    name: ClassVar[str]
    counts: ClassVar[bool]
    rails: tuple[str, ...]
    parts: tuple[str, ...]
    scope: str
    averages_s: float

    @abstractmethod
    def read(self) -> dict[str, float]:
        """Watts, or joules, of every rail.

        Raises:
            OSError: A file cannot be read now.
            ValueError: It holds no number.
        """


def number(path: Path) -> int:
    """The whole number in a file of sysfs.

    Raises:
        OSError, ValueError: See `Source.read`.
    """
    return int(path.read_text("ascii"))


def words(path: Path) -> str:
    """The text of a file of sysfs; empty if there is none."""
    try:
        return path.read_text("utf-8", errors="replace").strip()
    except OSError:
        return ""
