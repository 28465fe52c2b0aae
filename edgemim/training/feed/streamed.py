"""The images of a stream, decoded as they come; a few units of it are in memory at a time."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from PIL import UnidentifiedImageError
from torch.utils.data import get_worker_info

from edgemim.data.streams._format import Rows
from edgemim.data.streams.index import StreamIndex
from edgemim.errors import ConfigError, DataError
from edgemim.preprocess import Pixels, read_image
from edgemim.training.feed.inputs import Decodable
from edgemim.training.feed.order import BatchOrder
from edgemim.training.feed.unreadable import UnreadableImageError
from edgemim.training.feed.windows import Units, WindowOrder
from edgemim.training.loop.parts import Parts
from edgemim.training.settings import stream
from edgemim.training.settings.run import RunSettings
from edgemim.training.settings.stream import StreamSettings

# Windows have different numbers of images; a unit that is forgotten too early is only read again.
_PATIENCE = 1.5


@dataclass
class _Held:
    """A unit in memory.

    Attributes:
        size: Bytes.
        asked: How many of its images were asked for.
        last: When the last one was, counted in images.
    """

    images: Rows
    size: int
    asked: int = 0
    last: int = 0


class StreamedImages:
    """Images of a stream by number. Picklable: a worker process begins with none in memory.

    A unit leaves memory when each of its images was asked for once, which is all that an epoch does; when it was not
    asked for as long as a window lasts, since other processes ask for the rest of it; or when others need its place,
    since all that are held have to fit into a window.

    Args:
        index: Of the stream.
        settings: Size of a window.
        processes: That train, and each ask for their share of a window.

    Raises:
        ConfigError: A unit is larger than a window: memory could not stay within it.
    """

    def __init__(self, index: StreamIndex, settings: StreamSettings, processes: int = 1) -> None:
        self.index = index
        self.settings = settings
        self.processes = processes
        self._held: OrderedDict[int, _Held] = OrderedDict()
        self._now = 0
        self._in_window = settings.window_bytes * len(index) / float(index.sizes.sum())
        largest = int(index.sizes.max())
        if largest > settings.window_bytes:
            shard = index.describe(int(index.rows[: int(index.sizes.argmax())].sum())).partition(" of ")[2]
            raise ConfigError(
                f"{shard} has a row group (or sample) of {largest / stream.MB:.1f} MB, stream.window_mb is "
                f"{settings.window_mb}; write smaller row groups, or set stream.window_mb={-(-largest // stream.MB)}"
            )

    def __len__(self) -> int:
        return len(self.index)

    def __reduce__(self) -> tuple[type[StreamedImages], tuple[StreamIndex, StreamSettings, int]]:
        return StreamedImages, (self.index, self.settings, self.processes)

    @property
    def units(self) -> Units:
        """What the order of a run needs to know."""
        return Units(rows=self.index.rows, sizes=self.index.sizes)

    def get(self, i: int) -> Pixels:
        """Image `i`, uint8 [H, W, 3].

        Raises:
            UnreadableImageError: It cannot be decoded.
            DataError: Its shard is gone or has changed.
        """
        unit, row = self.index.find(i)
        encoded = self._take(unit, row)
        if encoded is None:
            name = self.index.describe(i)
            raise UnreadableImageError(name, f"{name} is empty; remove the row")
        try:
            return np.asarray(read_image(encoded))
        except DataError as error:
            name, reason = self.index.describe(i), _reason(error.__cause__ or error)
            message = f"{name} is not an image that can be read: {reason}; remove or replace it"
            raise UnreadableImageError(name, message) from error

    def _take(self, unit: int, row: int) -> bytes | None:
        held = self._held.get(unit)
        if held is None:
            self._make_room(int(self.index.sizes[unit]))
            images = self.index.read(unit)
            held = self._held[unit] = _Held(images, size=int(self.index.sizes[unit]))
        encoded = held.images[row]
        self._now += 1
        held.last = self._now
        held.asked += 1
        self._held.move_to_end(unit)
        if held.asked == len(held.images):
            del self._held[unit]
        return encoded

    def _make_room(self, size: int) -> None:
        """Drop what is not asked for any more, and what does not fit, before a unit of `size` bytes is read."""
        worker = get_worker_info()
        share = self._in_window / self.processes / (1 if worker is None else worker.num_workers)
        forgotten = self._now - _PATIENCE * share
        for unit in [unit for unit, held in self._held.items() if held.last < forgotten]:
            del self._held[unit]
        while self._held and sum(held.size for held in self._held.values()) + size > self.settings.window_bytes:
            self._held.popitem(last=False)


def order_of(
    images: Decodable, settings: RunSettings, *, steps: int, start_step: int, parts: Parts
) -> BatchOrder | WindowOrder:
    """In which order a run reads `images`: in windows where they are streamed, else all of them mixed.

    Args:
        images: That are read.
        settings: Of the run.
        steps: Of the whole run.
        start_step: Steps that were already done.
        parts: Which parts of a batch this process computes.

    Raises:
        ConfigError: The batch cannot be divided into that many parts.
    """
    batch_size, seed = settings.training.batch_size, settings.seed
    if isinstance(images, StreamedImages):
        return WindowOrder(
            units=images.units,
            settings=images.settings,
            batch_size=batch_size,
            steps=steps,
            seed=seed,
            start_step=start_step,
            parts=parts,
        )
    return BatchOrder(
        images=len(images), batch_size=batch_size, steps=steps, seed=seed, start_step=start_step, parts=parts
    )


def workers_of(order: BatchOrder | WindowOrder, wanted: int, most: int) -> int:
    """How many processes read a run's images.

    Args:
        order: In which they are read.
        wanted: `training.workers`; not negative: so many.
        most: How many could be used; of a stream's, as many of them as share its lanes evenly.
    """
    return order.evenly(most) if wanted < 0 and most and isinstance(order, WindowOrder) else most


def _reason(error: BaseException) -> str:
    """What Pillow says, without the address of the buffer that it read from."""
    return "unknown format" if isinstance(error, UnidentifiedImageError) else str(error)
