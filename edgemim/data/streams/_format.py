"""The contract of a kind of shard: which units it has, and what is in one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from edgemim.data.streams.files import Shard


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What is read from a shard in one go.

    Attributes:
        rows: Images in it, at least 1.
        size: Bytes in memory.
        begin, end: Where it lies: numbers whose meaning only its format knows.
    """

    rows: int
    size: int
    begin: int
    end: int


class Rows(Protocol):
    """The encoded images of a unit, in memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> bytes | None:
        """Image `row` as it is in the shard; None where the row is empty."""


class ShardFormat(ABC):
    """One kind of shard. Formats are made without arguments and keep no state."""

    suffix: str

    @abstractmethod
    def units(self, shard: Shard) -> list[Unit]:
        """Every unit of a shard, in order, found without reading its images where the format allows that.

        Raises:
            DataError: The shard cannot be read, or holds no images.
        """

    @abstractmethod
    def read(self, shard: Shard, unit: Unit) -> Rows:
        """The images of a unit.

        Raises:
            DataError: The shard is gone or has changed.
        """

    @abstractmethod
    def labels(self, shard: Shard, unit: Unit) -> list[int] | None:
        """Class index of each image of a unit; None where one has none.

        Raises:
            DataError: The shard is gone or has changed.
        """
