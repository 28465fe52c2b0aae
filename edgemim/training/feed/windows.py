"""In which order the images of a stream are seen: shuffled in windows, so that few shards are open at a time.

In each epoch the units of a stream (row groups, runs of samples) are permuted and cut into windows of whole units that
fit into memory; the rows of a window are permuted. Every image comes exactly once per epoch, and what comes at a
position of the run follows from the seed and the position alone: a resumed run sees exactly what was left.

A window is dealt to lanes. The batches of a part of the batch take its lanes in turn, and a lane's images are rows of
consecutive units. So a process, or a worker that gets every k-th batch, reads its own units and few others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from edgemim.training.feed.order import Place
from edgemim.training.loop.parts import Parts
from edgemim.training.settings.stream import StreamSettings

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Units:
    """The units of a stream.

    Attributes:
        rows: Images of each, int64 [U].
        sizes: Bytes of each, int64 [U].
    """

    rows: Ints
    sizes: Ints

    @cached_property
    def images(self) -> int:
        """Of all units."""
        return int(self.rows.sum())

    @cached_property
    def first(self) -> Ints:
        """Number of the first image of each unit, int64 [U]."""
        return np.cumsum(self.rows) - self.rows


@dataclass(frozen=True, kw_only=True)
class _Epoch:
    """The windows of an epoch.

    Attributes:
        units: Numbers of the units in their order, int64 [U].
        cuts: Place in `units` where each window begins, and U, int64 [W + 1].
        begins: Position in the epoch where each window begins, and N, int64 [W + 1].
    """

    number: int
    units: Ints
    cuts: Ints
    begins: Ints


@dataclass(frozen=True, kw_only=True)
class _Window:
    """Images by position: those at the positions `begin` to `begin + len(images)` of an epoch."""

    epoch: int
    begin: int
    images: Ints


class WindowOrder:
    """This process's parts of the batches, as (epoch, index) places, from `start_step` to the end of the run.

    Its length is that of the whole run, whatever `start_step` is: Lightning counts a resumed run from there.

    Args:
        units: Of the stream.
        settings: Size of a window, and lanes.
        batch_size: Places per batch, of all parts together.
        steps: Batches of the whole run.
        seed: Of the order.
        start_step: Batches that were already done.
        parts: Which parts of a batch this process computes.

    Raises:
        ConfigError: The batch cannot be divided into that many parts.
    """

    def __init__(
        self,
        *,
        units: Units,
        settings: StreamSettings,
        batch_size: int,
        steps: int,
        seed: int,
        start_step: int = 0,
        parts: Parts | None = None,
    ) -> None:
        self.units = units
        self.settings = settings
        self.batch_size = batch_size
        self.steps = steps
        self.seed = seed
        self.start_step = start_step
        self.parts = parts or Parts()
        self.part_size = self.parts.size(batch_size)
        # Positions only grow while a run goes on, so that one of each is enough.
        self._epoch: _Epoch | None = None
        self._window: _Window | None = None

    def __len__(self) -> int:
        return self.steps * len(self.parts.mine)

    def __iter__(self) -> Iterator[list[Place]]:
        for step in range(self.start_step, self.steps):
            for part in self.parts.mine:
                yield self._places(step * self.batch_size + part * self.part_size, self.part_size)

    def evenly(self, most: int) -> int:
        """The largest number of workers up to `most` that does not make a lane wander from one to another.

        That is a multiple of the lanes, or else one that divides them. A DataLoader hands batch n to worker n modulo
        their number.
        """
        lanes = self.settings.lanes * len(self.parts.mine)
        return most - most % lanes if most >= lanes else max(n for n in range(1, most + 1) if lanes % n == 0)

    def _places(self, position: int, count: int) -> list[Place]:
        """The places at consecutive positions of the run, which may lie in several windows and epochs."""
        places: list[Place] = []
        while len(places) < count:
            epoch, offset = divmod(position + len(places), self.units.images)
            window = self._window_at(epoch, offset)
            begin = offset - window.begin
            places += [(epoch, i) for i in window.images[begin : begin + count - len(places)].tolist()]
        return places

    def _window_at(self, number: int, offset: int) -> _Window:
        """The window that covers a position of an epoch."""
        now = self._window
        if now is not None and now.epoch == number and now.begin <= offset < now.begin + len(now.images):
            return now
        epoch = self._epoch
        if epoch is None or epoch.number != number:
            self._epoch = epoch = self._epoch_of(number)
        self._window = window = self._dealt(epoch, int(np.searchsorted(epoch.begins, offset, side="right")) - 1)
        return window

    def _epoch_of(self, number: int) -> _Epoch:
        # The third number keeps these draws apart from those of the windows.
        units = np.random.default_rng((self.seed, number, 0)).permutation(len(self.units.rows))
        ends = np.cumsum(self.units.sizes[units])
        cuts = [0]
        while cuts[-1] < len(units):
            before = int(ends[cuts[-1] - 1]) if cuts[-1] else 0
            cut = int(np.searchsorted(ends, before + self.settings.window_bytes, side="right"))
            cuts.append(max(cut, cuts[-1] + 1))
        rows = np.concatenate([[0], np.cumsum(self.units.rows[units])])
        return _Epoch(number=number, units=units, cuts=np.array(cuts), begins=rows[cuts])

    def _dealt(self, epoch: _Epoch, number: int) -> _Window:
        """The images of a window, each lane's share of them in the places of the lane's batches."""
        units = epoch.units[epoch.cuts[number] : epoch.cuts[number + 1]]
        first, rows = self.units.first[units], self.units.rows[units]
        images = np.concatenate([np.arange(f, f + r) for f, r in zip(first, rows, strict=True)])
        begin, end = int(epoch.begins[number]), int(epoch.begins[number + 1])
        lanes = self._lanes(np.arange(begin, end) + epoch.number * self.units.images)
        rng = np.random.default_rng((self.seed, epoch.number, 1 + number))
        shares = np.split(images, np.cumsum(np.bincount(lanes))[:-1])
        dealt = np.empty_like(images)
        dealt[np.argsort(lanes, kind="stable")] = np.concatenate([rng.permutation(share) for share in shares])
        return _Window(epoch=epoch.number, begin=begin, images=dealt)

    def _lanes(self, positions: Ints) -> Ints:
        """The lane of each position of the run."""
        step, place = np.divmod(positions, self.batch_size)
        lanes: Ints = place // self.part_size * self.settings.lanes + step % self.settings.lanes
        return lanes
