"""The first images of a stream as a set of their own, for what looks at a few images again and again."""

from __future__ import annotations

import threading
from typing import Any

from edgemim.data.images import Images
from edgemim.data.streams._format import Rows
from edgemim.data.streams.index import StreamIndex


def first_images(index: StreamIndex, most: int, *, labelled: bool = True) -> Images:
    """The first `most` images of a stream, or all where there are fewer; they stay in their shards.

    Args:
        index: Of the stream.
        most: Largest number of images.
        labelled: Read their labels too, where every one has one.

    Raises:
        DataError: A shard is gone or has changed.
    """
    count = min(most, len(index))
    return Images(_First(index, count), name=index.name, labels=_labels(index, count) if labelled else None)


def _labels(index: StreamIndex, count: int) -> list[int] | None:
    labels: list[int] = []
    for unit in range(len(index.rows)):
        if len(labels) >= count:
            break
        found = index.labels(unit)
        if found is None:
            return None
        labels += found
    return labels[:count]


class _First:
    """Rows as `Images` reads them from a `datasets.Dataset`; the unit that was read last is in memory."""

    def __init__(self, index: StreamIndex, count: int) -> None:
        self._index = index
        self._count = count
        self._lock = threading.Lock()
        self._unit: tuple[int, Rows] | None = None

    def __len__(self) -> int:
        return self._count

    def __reduce__(self) -> tuple[type[_First], tuple[StreamIndex, int]]:
        return _First, (self._index, self._count)

    def __getitem__(self, rows: int | list[int]) -> dict[str, Any]:
        # Several threads decode, each a block of rows that follow one another: without the lock, or with one for each
        # row, they would throw each other's units out.
        with self._lock:
            if isinstance(rows, int):
                return {"image": self._encoded(rows)}
            return {"image": [self._encoded(row) for row in rows]}

    def _encoded(self, image: int) -> bytes | None:
        number, row = self._index.find(image)
        if self._unit is None or self._unit[0] != number:
            self._unit = number, self._index.read(number)
        return self._unit[1][row]
